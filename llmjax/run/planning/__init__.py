"""What a config needs, and how fast it trains, before there is a device."""
