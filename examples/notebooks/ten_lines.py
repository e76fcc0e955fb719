# %% [markdown]
# # Six hospitals learn to read digits together
#
# Each hospital keeps its own scans. What leaves it is one masked vector a round; the masks vanish only in
# the sum. Everything runs in this process, over the real protocol and real wire bytes.

# %%
import torch
from sklearn.datasets import load_digits

from secagg import FedAvg, Federation, Masking
from silo import TorchTrainer

# %% [markdown]
# Six hospitals with 250 digits each to train on and about 50 held out.

# %%
x, y = map(torch.tensor, load_digits(return_X_y=True))  # 1797 scanned digits, 64 pixels each
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)).double()
hospitals = {
    name: TorchTrainer(model, (x[i:1500:6], y[i:1500:6]), validation=(x[1500 + i :: 6], y[1500 + i :: 6]))
    for i, name in enumerate(["north", "south", "east", "west", "coast", "hills"])
}

# %% [markdown]
# One word, `Masking()`, is the protection; `Plain()` would be none.

# %%
history = Federation(silos=hospitals, scheme=Masking(), strategy=FedAvg()).run(rounds=10)

# %%
history.plot("accuracy")

# %% [markdown]
# Who could read what, what it cost, and what is not promised:

# %%
print(history.report())
