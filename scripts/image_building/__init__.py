"""Makes what boxes are flashed with. In reading order:

seed.py        what cloud-init reads from the boot partition of a card: pure text
overlay.py     the folder `multispin` of a boot partition: package, models, settings, token, and the sums of these
first-boot     what the box does with that folder at its first boot; multispin-first-boot.service runs it
card.py        seed and overlay for a stock Raspberry Pi OS card
layout.py      the partitions of a disk image, and the files that say so: pure text
root.py        a Debian root with the package in it, by mmdebstrap
disk.py        that root and an EFI system partition in one image
guest.py       such an image running in qemu: its command line, ssh, and waiting
trial.py       `scripts/image try`: a coordinator here, the agent in the guest, what is compared and measured
command.py     the command line
"""
