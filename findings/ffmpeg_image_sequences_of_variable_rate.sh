#!/usr/bin/env bash
# ffmpeg (the build in imageio-ffmpeg 0.8.1): frames of a clip as pictures are neither each frame nor always a frame.
#
# Guess: `ffmpeg -i CLIP out_%d.png` writes each frame of CLIP once; with `-vf fps=1` a readable clip gives at least one.
# Seen:  a picture sequence counts as having a constant rate. Of a clip of 10 frames with a pause in it (phones, screen
#        recordings) 25 pictures are written, of which 5 differ: frames are repeated to fill the pause, and others are
#        lost. A clip of 0.2 s gives no picture at fps=1, with exit code 0.
# Way out: `-fps_mode passthrough` (before ffmpeg 5.1 `-vsync passthrough`) writes each frame once; after fps=N count
#        the pictures, and take the first frame with `-frames:v 1` where there is none.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check imageio-ffmpeg==0.8.1
ffmpeg=$("$place/venv/bin/python" -c "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())")
"$ffmpeg" -version | head -1

cd "$place"
mkdir default each short
quiet="-nostdin -loglevel error"
"$ffmpeg" $quiet -f lavfi -i testsrc=size=64x36:rate=10:duration=2 -vf 'select=not(between(n\,3\,12))' \
  -fps_mode vfr -pix_fmt yuv420p pause.mp4
"$ffmpeg" $quiet -f lavfi -i testsrc=size=64x36:rate=10:duration=0.2 -pix_fmt yuv420p brief.mp4
"$ffmpeg" $quiet -i pause.mp4 default/%d.png
"$ffmpeg" $quiet -i pause.mp4 -fps_mode passthrough each/%d.png
"$ffmpeg" $quiet -i brief.mp4 -vf fps=1 short/%d.png

count() { find "$1" -name '*.png' | wc -l; }
different() { find "$1" -name '*.png' -exec md5sum {} + | cut -d' ' -f1 | sort -u | wc -l; }
echo "10 frames with a pause: $(count default) pictures by default, $(different default) of them different"
echo "with -fps_mode passthrough: $(count each), $(different each) different"
echo "0.2 s at fps=1: $(count short) pictures, exit code 0"
[ "$(count default)" -gt 10 ] && [ "$(different default)" -lt 10 ] && [ "$(different each)" = 10 ] && [ "$(count short)" = 0 ]
