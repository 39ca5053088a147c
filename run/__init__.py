"""What a run is: its flags, its config, its folder, and the runs of a sweep."""
