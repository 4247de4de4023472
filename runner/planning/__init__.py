"""How the plan of a run is made: its iterations counted, a small one of each kind timed."""
