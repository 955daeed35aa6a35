"""What is done: one module per stage, and a room per subject. Never imports `flows`, Prefect or DVC."""
