"""How a run tells what it does: events, progress and reports."""
