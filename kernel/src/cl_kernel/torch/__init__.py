"""What torch plugins share, once; installed by ``cl-kernel[torch]`` and imported by nobody but them.

``device`` picks the device, ``state`` turns torch objects into checkpoint trees and reads weight files safely,
``loaders`` makes tensors of samples, ``evaluate`` predicts, ``features`` reads any named layer, ``split`` holds
networks with a frozen lower part, ``branches`` networks with a stable copy, ``distributed`` starts ``torchrun`` jobs.
"""
