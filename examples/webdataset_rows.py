"""Read a distilled set with the stock webdataset reader: ddkit only decodes the rows.
Run: python examples/webdataset_rows.py SET    (a directory or a Hub id)"""
import argparse
import json
from pathlib import Path

import webdataset
from huggingface_hub import snapshot_download

import ddkit

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("set", help="a directory or a Hub id")
args = parser.parse_args()

root = Path(args.set)
if not root.is_dir():
    repo, _, revision = args.set.partition("@")
    wanted = ["ddkit.json", "data/*.tar"]
    root = Path(snapshot_download(repo, repo_type="dataset", revision=revision or None, allow_patterns=wanted))
manifest = json.loads((root / "ddkit.json").read_text())  # says which shards are the set
classes = [c["name"] for c in manifest["classes"]]
shards = [str(root / shard["path"]) for shard in manifest["shards"]]

for sample in webdataset.WebDataset(shards, shardshuffle=False):
    row = ddkit.decode_row(sample)  # tensors: image, label, box [V,4], flip [V], logits [V,C], …
    teacher = [classes[i] for i in row["logits"].argmax(1)]
    print(f"{sample['__key__']}: {classes[row['label']]}, {len(teacher)} views;", "teacher:", *teacher[:5], sep="  ")
