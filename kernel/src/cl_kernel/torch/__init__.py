"""What torch plugins share, once; installed by ``cl-kernel[torch]`` and imported by nobody but them.

``device`` picks the device, ``state`` turns torch objects into checkpoint trees and reads weight files safely,
``loaders`` makes tensors of samples, ``evaluate`` predicts, ``features`` reads any named layer, ``models`` holds
split networks, ``distributed`` starts ``torchrun`` jobs, ``learners`` are naive, experience replay and joint.
"""
