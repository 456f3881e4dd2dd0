"""A few small images of each set of the zoo, laid out as people download it: `make[name](folder)`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from volume_files import dicom, nifti

SIDE = 32
RGB, GREY = (SIDE, SIDE, 3), (SIDE, SIDE)
_SEEDS = count()


def _pixels(shape: tuple[int, ...], dtype: type[np.generic] = np.uint8) -> NDArray[np.generic]:
    return np.random.default_rng(next(_SEEDS)).integers(0, 250, shape).astype(dtype)


def _table(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _image(path: Path, shape: tuple[int, ...] = RGB) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_pixels(shape)).save(path)
    return path


def _class_folders(
    name: str, classes: str, suffix: str = "png", shape: tuple[int, ...] = RGB
) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for kind in classes.split():
            for i in range(5):
                _image(folder / name / kind / f"{kind}-{i}.{suffix}", shape)

    return make


def nct_crc_he(folder: Path) -> None:
    for name in ("NCT-CRC-HE-100K", "CRC-VAL-HE-7K"):
        _class_folders(name, "ADI BACK DEB LYM MUC MUS NORM STR TUM", "tif")(folder)


def breakhis(folder: Path) -> None:
    for i in range(6):
        kind, letter, tumour = (("benign", "B_A", "adenosis"), ("malignant", "M_DC", "ductal_carcinoma"))[i % 2]
        for magnification in (40, 100):
            slide = folder / f"BreaKHis_v1/histology_slides/breast/{kind}/SOB/{tumour}/SOB_{letter}_14-2254{i}AB"
            for k in (1, 2):
                name = f"SOB_{letter}-14-2254{i}AB-{magnification}-00{k}.png"
                _image(slide / f"{magnification}X" / name)


def mhist(folder: Path) -> None:
    rows: list[dict[str, object]] = []
    for i in range(12):
        name = f"MHIST_aa{'abcdefghijkl'[i]}.png"
        _image(folder / "images" / name)
        label, part = ("HP", "SSA")[i % 2], "train" if i < 8 else "test"
        rows.append({"Image Name": name, "Majority Vote Label": label} | {"Number of Annotators": 4, "Partition": part})
    _table(folder / "annotations.csv", rows)


def pannuke(folder: Path) -> None:
    for fold in (1, 2, 3):
        images = folder / f"Fold {fold}" / "images" / f"fold{fold}"
        masks = folder / f"Fold {fold}" / "masks" / f"fold{fold}"
        for one in (images, masks):
            one.mkdir(parents=True)
        np.save(images / "images.npy", _pixels((4, *RGB), np.float64))
        np.save(images / "types.npy", np.array(["Breast", "Colon", "Breast", "Skin"]))
        planes = np.zeros((4, SIDE, SIDE, 6))
        for i in range(5):
            planes[:, 6 * i : 6 * i + 5, 3:12, i] = i + 1  # a number a nucleus
        planes[..., 5] = ~planes[..., :5].any(axis=-1)
        np.save(masks / "masks.npy", planes)


def conic(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", _pixels((8, *RGB)))
    labels = np.zeros((8, SIDE, SIDE, 2), np.uint16)
    for kind in range(1, 7):
        labels[:, 5 * kind - 4 : 5 * kind, 4:20] = kind
    np.save(folder / "labels.npy", labels)
    _table(folder / "patch_info.csv", [{"patch_info": f"consep_{i // 2}-{i:04d}"} for i in range(8)])


def dsb2018(folder: Path) -> None:
    rows: list[dict[str, object]] = []
    for i in range(6):
        name = f"{i:064x}"
        _image(folder / "stage1_train" / name / "images" / f"{name}.png", (SIDE, SIDE, 4))
        for k in range(2):
            mask = np.zeros(GREY, np.uint8)
            mask[2:6, 4 * k : 4 * k + 2] = 255
            (folder / "stage1_train" / name / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(folder / "stage1_train" / name / "masks" / f"{k}.png")
            starts = [SIDE * (4 * k + column) + 3 for column in (0, 1)]  # from 1, down the columns
            rows.append({"ImageId": name, "EncodedPixels": " ".join(f"{start} 4" for start in starts)})
    _table(folder / "stage1_train_labels.csv", rows)


def _outline(x: int, y: int, width: int, height: int) -> list[int]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def livecell(folder: Path) -> None:
    for k, part in enumerate(("train", "val", "test")):
        images, annotations = [], []
        for i in range(3):
            name = f"A172_Phase_A7_{k}_00d0{i}h00m_1.tif"
            where = "livecell_test_images" if part == "test" else "livecell_train_val_images"
            _image(folder / "images" / where / name, GREY)
            images.append({"id": i, "file_name": name, "width": SIDE, "height": SIDE})
            for j, box in enumerate(((3, 4, 8, 8), (15, 16, 10, 12))):
                annotation = {"id": 10 * i + j, "image_id": i, "category_id": 1, "bbox": box, "iscrowd": 0}
                annotations.append(annotation | {"area": box[2] * box[3], "segmentation": [_outline(*box)]})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
        (folder / f"livecell_coco_{part}.json").write_text(json.dumps(content))


def bccd(folder: Path) -> None:
    whole = folder / "BCCD_Dataset" / "BCCD"
    for inner in ("Annotations", "ImageSets/Main"):
        (whole / inner).mkdir(parents=True)
    names = [f"BloodImage_{i:05d}" for i in range(9)]
    for name in names:
        _image(whole / "JPEGImages" / f"{name}.jpg")
        objects = "".join(
            f"<object><name>{kind}</name><difficult>0</difficult><bndbox><xmin>{9 * i}</xmin><ymin>2</ymin>"
            f"<xmax>{9 * i + 8}</xmax><ymax>20</ymax></bndbox></object>"
            for i, kind in enumerate(("RBC", "WBC", "Platelets"))
        )
        size = f"<size><width>{SIDE}</width><height>{SIDE}</height><depth>3</depth></size>"
        (whole / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    for k, part in enumerate(("train", "val", "test")):
        (whole / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names[3 * k : 3 * k + 3]))


def _medmnist(name: str, classes: int, shape: tuple[int, ...], several: bool = False) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        arrays = {}
        for part in ("train", "val", "test"):
            labels = np.arange(2 * classes)[:, None] % classes
            arrays[f"{part}_labels"] = (labels == np.arange(classes)).astype(np.uint8) if several else labels
            arrays[f"{part}_images"] = _pixels((2 * classes, *shape))
        folder.mkdir(parents=True)
        np.savez(folder / f"{name}_224.npz", **arrays)

    return make


def kermany_xray(folder: Path) -> None:
    for part in ("train", "test"):
        for i in range(5):
            _image(folder / "chest_xray" / part / "NORMAL" / f"IM-{i}-{part}.jpeg", RGB if i == 1 else GREY)
            _image(folder / "chest_xray" / part / "PNEUMONIA" / f"person{i}_bacteria_{i}_{part}.jpeg", GREY)


def kermany_oct(folder: Path) -> None:
    for k, part in enumerate(("train", "test")):
        for kind in ("NORMAL", "CNV", "DME", "DRUSEN"):
            for i in range(6):
                patient = 1000 * k + i // 2
                _image(folder / "OCT2017" / part / kind / f"{kind}-{patient}-{i % 2 + 1}.jpeg", GREY)


def _xray(path: Path) -> None:
    dicom(path, _pixels(GREY), Modality="CR", SOPInstanceUID=None)


def rsna_pneumonia(folder: Path) -> None:
    rows: list[dict[str, object]] = []
    for i in range(6):
        name = f"0004cfab-14fd-4e49-80ba-{i:012d}"
        _xray(folder / "stage_2_train_images" / f"{name}.dcm")
        for k in range(1 + (i == 3)):
            box = {"x": 3.0 + 9 * k, "y": 4.0, "width": 10.0, "height": 20.0} if i % 2 else dict.fromkeys("xy", "")
            box = {"x": "", "y": "", "width": "", "height": ""} | box
            rows.append({"patientId": name} | box | {"Target": i % 2})
    _table(folder / "stage_2_train_labels.csv", rows)


def vindr_cxr(folder: Path) -> None:
    corners = ("x_min", "y_min", "x_max", "y_max")
    kinds = [
        "Aortic enlargement",
        "Atelectasis",
        "Calcification",
        "Cardiomegaly",
        "Consolidation",
        "ILD",
        "Infiltration",
        "Lung Opacity",
        "Nodule/Mass",
        "Other lesion",
        "Pleural effusion",
        "Pleural thickening",
        "Pneumothorax",
        "Pulmonary fibrosis",
    ]
    rows: list[dict[str, object]] = []
    for i in range(6):
        name = f"{i:032x}"
        _xray(folder / "train" / f"{name}.dicom")
        for reader in ("R9", "R10"):
            about = {"image_id": name, "rad_id": reader}
            if i == 2:
                rows.append(about | {"class_name": "No finding", "class_id": 14} | dict.fromkeys(corners, ""))
                continue
            for k, kind in enumerate(kinds):
                box = dict(zip(corners, (k, 3.0, k + 12.0, 25.0), strict=True))
                rows.append(about | {"class_name": kind, "class_id": k} | box)
    _table(folder / "train.csv", rows)


def siim_pneumothorax(folder: Path) -> None:
    lines = ["ImageId, EncodedPixels"]
    for i in range(6):
        name = f"1.2.276.0.7230010.3.1.4.8323329.{i}.1517875201.{i}"
        _xray(folder / "dicom-images-train" / f"study{i}" / f"series{i}" / f"{name}.dcm")
        lines += [f"{name}, 40 5 27 6" if i % 2 else f"{name}, -1"] + ([f"{name}, 200 8"] if i == 3 else [])
    (folder / "train-rle.csv").write_text("\n".join(lines) + "\n")


def chexpert(folder: Path) -> None:
    findings = ("No Finding", "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    for part, patients in (("train", 8), ("valid", 3)):
        rows: list[dict[str, object]] = []
        for i in range(patients):
            for k, view in enumerate(("frontal", "lateral")):
                path = f"CheXpert-v1.0-small/{part}/patient{64000 + i + 100 * (part == 'valid')}/study1"
                _image(folder / path / f"view{k + 1}_{view}.jpg", GREY)
                cells = {
                    name: ("1.0", "0.0", "-1.0", "")[(i + j) % (4 if part == "train" else 2)]
                    for j, name in enumerate(findings)
                }
                about = {"Path": f"{path}/view{k + 1}_{view}.jpg", "Sex": "Male", "Age": 60, "AP/PA": "AP"}
                rows.append(about | cells)
        _table(folder / "CheXpert-v1.0-small" / f"{part}.csv", rows)


def _tuberculosis(name: str, prefix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for i in range(10):
            _image(folder / name / "CXR_png" / f"{prefix}_{i:04d}_{i % 2}.png", RGB if i == 3 else GREY)
        (folder / name / "ClinicalReadings").mkdir()
        (folder / name / "ClinicalReadings" / f"{prefix}_0000_0.txt").write_text("male 45yrs\nnormal\n")

    return make


def _volume(image: Path, labels: Path, values: Iterable[int] = (0, 1), dtype: type[np.generic] = np.int16) -> None:
    voxels = _pixels((SIDE, SIDE, 6), dtype)
    nifti(image, voxels, (1.5, 1.5, 3.0))
    drawn = np.zeros(voxels.shape, np.uint8)
    for i, value in enumerate(values):
        drawn[2 + i : 30, 2 + i : 30] = value
    nifti(labels, drawn, (1.5, 1.5, 3.0))


def _decathlon(name: str, case: str, values: Iterable[int]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for i in range(4):
            _volume(*(folder / name / part / f"{case}_{i:03d}.nii.gz" for part in ("imagesTr", "labelsTr")), values)
        (folder / name / "imagesTr" / f"._{case}_000.nii.gz").write_bytes(b"macOS")
        (folder / name / "dataset.json").write_text("{}")

    return make


def amos22(folder: Path) -> None:
    for part, number in (("Tr", 1), ("Va", 100)):
        for i in (number, number + 1, number + 500):  # the last one is MRI
            _volume(
                *(folder / "amos22" / f"{what}{part}" / f"amos_{i:04d}.nii.gz" for what in ("images", "labels")),
                range(16),
            )


def kits23(folder: Path) -> None:
    for i in range(4):
        case = folder / "kits23" / "dataset" / f"case_{i:05d}"
        _volume(case / "imaging.nii.gz", case / "segmentation.nii.gz", range(4))
        (case / "instances").mkdir()
        (case / "instances" / "kidney_instance-1_annotation-1.nii.gz").write_bytes(b"")


def acdc(folder: Path) -> None:
    for k, part in enumerate(("training", "testing")):
        for i in range(3):
            patient = f"patient{100 * k + i + 1:03d}"
            whole = folder / "ACDC" / "database" / part / patient
            for frame in (1, 12):
                name = f"{patient}_frame{frame:02d}"
                _volume(whole / f"{name}.nii.gz", whole / f"{name}_gt.nii.gz", range(4))
            nifti(whole / f"{patient}_4d.nii.gz", np.zeros((4, 4, 2), np.int16))
            (whole / "Info.cfg").write_text("ED: 1\n")


def brats2021(folder: Path) -> None:
    for i in range(4):
        case = f"BraTS2021_{i:05d}"
        _volume(folder / case / f"{case}_flair.nii.gz", folder / case / f"{case}_seg.nii.gz", (0, 1, 2, 4))
        nifti(folder / case / f"{case}_t1.nii.gz", np.zeros((4, 4, 2), np.int16))


make: dict[str, Callable[[Path], None]] = {
    "acdc": acdc,
    "amos22": amos22,
    "bach": _class_folders("ICIAR2018_BACH_Challenge/Photos", "Normal Benign InSitu Invasive", "tif"),
    "bccd": bccd,
    "bloodmnist": _medmnist("bloodmnist", 8, RGB),
    "brats2021": brats2021,
    "breakhis": breakhis,
    "chestmnist": _medmnist("chestmnist", 14, GREY, several=True),
    "chexpert": chexpert,
    "conic": conic,
    "dsb2018": dsb2018,
    "kather_texture_2016": _class_folders(
        "Kather_texture_2016_image_tiles_5000",
        "01_TUMOR 02_STROMA 03_COMPLEX 04_LYMPHO 05_DEBRIS 06_MUCOSA 07_ADIPOSE 08_EMPTY",
        "tif",
    ),
    "kermany_oct": kermany_oct,
    "kermany_xray": kermany_xray,
    "kits23": kits23,
    "livecell": livecell,
    "malaria": _class_folders("cell_images", "Parasitized Uninfected"),
    "mednist": _class_folders("MedNIST", "AbdomenCT BreastMRI CXR ChestCT Hand HeadCT", "jpeg", GREY),
    "mhist": mhist,
    "montgomery": _tuberculosis("MontgomerySet", "MCUCXR"),
    "msd_hippocampus": _decathlon("Task04_Hippocampus", "hippocampus", (0, 1, 2)),
    "msd_lung": _decathlon("Task06_Lung", "lung", (0, 1)),
    "msd_spleen": _decathlon("Task09_Spleen", "spleen", (0, 1)),
    "nct_crc_he": nct_crc_he,
    "organamnist": _medmnist("organamnist", 11, GREY),
    "pannuke": pannuke,
    "rsna_pneumonia": rsna_pneumonia,
    "shenzhen": _tuberculosis("ChinaSet_AllFiles", "CHNCXR"),
    "siim_pneumothorax": siim_pneumothorax,
    "tissuemnist": _medmnist("tissuemnist", 8, GREY),
    "vindr_cxr": vindr_cxr,
}
