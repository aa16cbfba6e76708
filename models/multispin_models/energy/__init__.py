"""Energy meters: one protocol, one file a sensor."""
