"""The recorder's archive: every event in DuckDB and Parquet, for queries in SQL."""
