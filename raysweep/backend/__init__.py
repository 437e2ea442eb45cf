"""Ray on the driver's side: starting or joining it, placing trials, noticing their ends, and signals."""
