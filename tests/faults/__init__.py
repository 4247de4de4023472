"""What fails in clouds, made to fail here."""
