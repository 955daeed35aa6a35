"""The registry: MLflow's runs and versions, signed packages, the ledgers of decisions and of looks."""
