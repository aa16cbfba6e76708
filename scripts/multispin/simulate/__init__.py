"""Agents, links and a coordinator in virtual time, in reading order. The daemons' own code runs; nothing waits.

virtual_time  an event loop whose time jumps, and an engine whose calls spend it
scenario      what is simulated; from TOML
language      texts that are known beforehand, and models that write them
network       links: rate, fading, delay, loss
world         agents, users and a coordinator, put together
summary       what a simulation shows
toy_model     a language model that is a hash: what it says of a wrong cache is wrong
fault_setting what a seed of a faulty run stands for
faults        the protocol tested to destruction: one seed, one run in which everything fails
paper_setting the setting of the Multi-SPIN paper
runs          what the command does
"""
