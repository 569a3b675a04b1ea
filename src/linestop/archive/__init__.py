"""The recorder's archive: every event in DuckDB and Parquet, to be asked with SQL."""
