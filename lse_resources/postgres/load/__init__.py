"""Loading run files into the table `runs`."""
