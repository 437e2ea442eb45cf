"""Turns rows into what people and programs read: Parquet, TensorBoard, figures. Never imports the search."""
