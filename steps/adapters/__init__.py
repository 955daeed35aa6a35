"""The edges: each module wraps one outside thing (files, images, parameters, MLflow, Great Expectations)."""
