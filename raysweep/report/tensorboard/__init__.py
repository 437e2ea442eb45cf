"""The report as TensorBoard reads it: scalars, HParams, pictures, pages and the Projector."""
