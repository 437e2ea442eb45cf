"""Ray on the driver's side: starting and joining it, placing trials, their ends, and signals."""
