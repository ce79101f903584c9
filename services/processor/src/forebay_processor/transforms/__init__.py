"""The transforms: each changes a batch of rows, column by column."""
