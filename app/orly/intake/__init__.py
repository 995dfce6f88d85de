"""What every door asks before an event may be stored: the limits on events and their signatures."""
