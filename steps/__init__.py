"""What is done: one module a stage, a pure core, thin adapters. Never imports `flows`, Prefect or DVC."""
