"""The multispin command: ties agent, coordinator and models together on one machine."""
