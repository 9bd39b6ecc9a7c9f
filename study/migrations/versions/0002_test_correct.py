"""Which examples of the test split a trial got right."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """A column of results; those there are have none."""
    op.add_column("results", sa.Column("test_correct", sa.LargeBinary))
