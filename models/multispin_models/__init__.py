"""What both ends must agree on: the wire, the noise, the rule, the engines, the records."""
