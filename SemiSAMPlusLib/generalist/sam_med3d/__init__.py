"""SAM-Med3D: a promptable model of volumes, pre-trained on 3D masks of many organs, lesions and modalities."""
