import torch
from sklearn.datasets import load_digits

from secagg import FedAvg, Federation, Masking
from silo import TorchTrainer

x, y = map(torch.tensor, load_digits(return_X_y=True))  # 1797 scanned digits, 64 pixels each
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10)).double()
hospitals = {
    name: TorchTrainer(model, (x[i:1500:6], y[i:1500:6]), validation=(x[1500 + i :: 6], y[1500 + i :: 6]))
    for i, name in enumerate(["north", "south", "east", "west", "coast", "hills"])
}
history = Federation(silos=hospitals, scheme=Masking(), strategy=FedAvg()).run(rounds=10)
history.plot("accuracy")
print(history.report())
