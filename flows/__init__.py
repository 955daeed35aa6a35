"""When stages run and in what order. The only folder that imports Prefect or DVC."""
