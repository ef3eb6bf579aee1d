"""
Files larger than memory: a mixture trained on Parquet
======================================================

Half a million rows lie in sixteen Parquet files. Half of their prices follow one law,
half another. `skmoe.dask` learns both without loading the files at once: a sample
decides, and passes over the files learn.
"""

# %%
# The files are generated here. In your work they are what your warehouse writes. They
# are sorted by time, so that no single file shows both laws.

import tempfile
from pathlib import Path

import dask.dataframe as dd
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.linear_model import LinearRegression

from skmoe.dask import DaskMoERegressor

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
for month in range(16):
    n = 30_000
    area = rng.uniform(20, 200, n)
    age = rng.uniform(0, 80, n)
    town = float(month >= 8) + rng.normal(0, 0.1, n)
    price = np.where(town > 0.5, 9 * area - 2 * age, 4 * area + 3 * age)
    table = pd.DataFrame({"area": area, "age": age, "town": town})
    table["price"] = price + rng.normal(0, 40, n)
    table.to_parquet(folder / f"{month:02}.parquet")

# %%
# The fit names the column of the target. Without a client the work runs on the threads
# of this process; ``distributed.Client()`` before it would take the processes of a
# cluster. ``sample_rows`` is smaller than usual, to show what all rows add.

rows = dd.read_parquet(folder)
model = DaskMoERegressor(n_experts=2, sample_rows=1_000, random_state=0)
model.fit(rows, "price")
print(f"sample: {model.sample_size_} of {len(rows)} rows")
print(f"rounds over the files: {model.n_rounds_}")

# %%
# Rows that took part in nothing but this judged each mixture: that of the sample, that
# of all rows, and experts that are drawn to one learner.

for name, value in model.diagnostics_.items():
    if name.startswith("held_out"):
        print(f"{name:30} {value:.4f} nats per row")

# %%
# Answers are lazy: a Series with the index and divisions of the files.

said = model.predict(rows[["area", "age", "town"]])
print(said)

# %%
# The fitted mixture is an ordinary one. It shows the two laws that it found.

local = model.to_local()
for expert, share in zip(local.experts_, local.expert_load_, strict=True):
    area, age, _ = expert.coef_
    print(f"{share:.0%} of the rows: {area:.1f} per area, {age:.1f} per age")

few = rows.get_partition(3).compute().head(2_000)
more = rows.get_partition(12).compute().head(2_000)
few = pd.concat([few, more])
names = ["area", "age", "town"]
line = LinearRegression().fit(few[names], few["price"])

figure, axes = plt.subplots(1, 2, sharex=True, sharey=True, figsize=(8, 3.6))
for axis, name, one in (
    (axes[0], "one line", line),
    (axes[1], "mixture of two", local),
):
    error = few["price"] - one.predict(few[names])
    axis.scatter(few["area"], error, s=3, c=few["town"], cmap="coolwarm")
    axis.set(title=f"{name}: error {error.std():.0f}", xlabel="area")
axes[0].set_ylabel("price minus prediction")
figure.tight_layout()
