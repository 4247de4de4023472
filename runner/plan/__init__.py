"""What a run is asked to do: configuration, RELION's flags and the schedule of sampling."""
