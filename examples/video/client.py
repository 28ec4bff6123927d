"""Sends a video's frames through a function over one gRPC stream, and writes what comes back as a video.

python client.py shapes.avi         a file
python client.py --camera 0         a web cam, until Ctrl-C

Each message of pb.Gateway/Invokes is one JPEG frame. The client does not wait for a frame's answer before it
sends the next one; it waits while --in-flight frames have none yet. Answers come in the order of the frames.
"""

import argparse
import os
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import grpc

from dcf.rpc import pb_gateway_pb2 as pb

try:
    for name, value in (("OPENCV_LOG_LEVEL", "SILENT"), ("OPENCV_FFMPEG_LOGLEVEL", "-8")):
        os.environ.setdefault(name, value)  # what goes wrong is said in one line of ours
    import cv2
    import numpy as np
except ImportError:
    sys.exit("client.py: OpenCV is missing: pip install opencv-python-headless")

CODECS = {".avi": "MJPG", ".mp4": "mp4v"}
CONNECT_S = 5.0
OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # a large frame has more than gRPC's 4 MiB
    ("grpc.enable_http_proxy", 0),
)


class ClientError(Exception):
    """What the user is told, in one line."""


class Frames:
    """The messages of the stream; gRPC takes them in a thread of its own."""

    def __init__(self, source: "cv2.VideoCapture", function: str, in_flight: int, most: int | None) -> None:
        self.sent_at: deque[float] = deque()  # of the frames that have no answer yet
        self._source = source
        self._function = function
        self._most = most
        self._slots = threading.Semaphore(in_flight)
        self._stopped = False

    def __iter__(self) -> Iterator[pb.InvokeServiceRequest]:
        number = 0
        while self._most is None or number < self._most:
            self._slots.acquire()
            read, frame = (False, None) if self._stopped else self._source.read()
            if not read:
                return
            _, jpeg = cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 90])
            self.sent_at.append(time.perf_counter())
            yield pb.InvokeServiceRequest(Service=self._function, Input=jpeg.tobytes())
            number += 1

    def answered(self) -> float:
        """The oldest frame has its answer: its round trip in seconds. There is room for one more."""
        self._slots.release()
        return time.perf_counter() - self.sent_at.popleft()

    def stop(self) -> None:
        """No more frames; those in flight are still answered. Takes no lock: a signal's handler calls it."""
        self._stopped = True


class Video:
    """The file of the answers; it is made when the first one says how large a picture is."""

    def __init__(self, path: str, frames_per_s: float) -> None:
        if Path(path).suffix not in CODECS:
            raise ClientError(f"cannot write {path}: expected a name that ends with {' or '.join(CODECS)}")
        if not Path(path).absolute().parent.is_dir():
            raise ClientError(f"cannot write {path}: its folder is not there")
        self._path = path
        self._frames_per_s = frames_per_s
        self._writer: cv2.VideoWriter | None = None

    def add(self, jpeg: bytes) -> None:
        """Append one answer."""
        frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
        if frame is None:
            raise ClientError("the function answered with something that is no picture")
        if self._writer is None:
            codec = cv2.VideoWriter_fourcc(*CODECS[Path(self._path).suffix])
            self._writer = cv2.VideoWriter(self._path, codec, self._frames_per_s, (frame.shape[1], frame.shape[0]))
            if not self._writer.isOpened():
                raise ClientError(f"cannot write {self._path}")
        self._writer.write(frame)

    def close(self) -> None:
        """Finish the file: without this no player reads it."""
        if self._writer is not None:
            self._writer.release()


def open_source(path: str | None, camera: int | None) -> "cv2.VideoCapture":
    """The file or the camera. Raises ClientError where there is none."""
    if path is None:
        source = cv2.VideoCapture(camera)
        if not source.isOpened():
            raise ClientError(f"there is no camera {camera} (/dev/video{camera})")
        return source
    if not Path(path).is_file():
        raise ClientError(f"{path} is not there")
    source = cv2.VideoCapture(path)
    if not source.isOpened():
        raise ClientError(f"{path} is not a video that OpenCV can read")
    return source


def send(options: argparse.Namespace, channel: grpc.Channel) -> None:
    """Send all frames, write all answers, print how fast it went."""
    source = open_source(options.video, options.camera)
    video = Video(options.output, source.get(cv2.CAP_PROP_FPS) or 30.0)
    try:
        grpc.channel_ready_future(channel).result(CONNECT_S)
    except grpc.FutureTimeoutError:
        raise ClientError(f"no gateway answers at {options.gateway} (dcf up --detach starts one)") from None
    frames = Frames(source, options.function, options.in_flight, options.frames)

    def on_interrupt(number: int, _: object) -> None:
        frames.stop()
        signal.signal(number, signal.default_int_handler)  # the second Ctrl-C does not wait for answers

    signal.signal(signal.SIGINT, on_interrupt)
    invokes = channel.stream_stream(
        "/pb.Gateway/Invokes", pb.InvokeServiceRequest.SerializeToString, pb.Messages.FromString
    )
    trips_s: list[float] = []
    started = time.perf_counter()
    answers = invokes(iter(frames))
    try:
        for answer in answers:
            trips_s.append(frames.answered())
            video.add(answer.Output)
    except grpc.RpcError as error:
        raise ClientError(f"frame {len(trips_s)}: {error.details()} ({error.code().name})") from None
    finally:
        answers.cancel()
        video.close()
    took_s = time.perf_counter() - started
    if not trips_s:
        raise ClientError("there was no frame to send")
    print(f"{options.output}: {len(trips_s)} frames, {len(trips_s) / took_s:.1f} frames/s")
    print(
        f"round trip: median {statistics.median(trips_s) * 1000:.1f} ms, max {max(trips_s) * 1000:.1f} ms, "
        f"with at most {options.in_flight} frames in flight"
    )


def count(text: str) -> int:
    """A whole number from 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("video", nargs="?", help="a video file")
    source.add_argument("--camera", type=int, metavar="N", help="the web cam /dev/videoN instead, until Ctrl-C")
    parser.add_argument("--output", "-o", default="out.avi", metavar="FILE", help=".avi or .mp4; default: out.avi")
    parser.add_argument("--frames", type=count, metavar="N", help="send no more than these; default: all")
    parser.add_argument("--in-flight", type=count, default=8, metavar="N", help="default: 8")
    parser.add_argument("--function", default="video", metavar="NAME", help="default: video")
    parser.add_argument(
        "--gateway", default=os.environ.get("DCF_GATEWAY") or "127.0.0.1:32222", metavar="HOST:PORT",
        help="default: $DCF_GATEWAY, else 127.0.0.1:32222",
    )  # fmt: skip
    options = parser.parse_args()
    try:
        with grpc.insecure_channel(options.gateway, options=OPTIONS) as channel:
            send(options, channel)
    except ClientError as error:
        sys.exit(f"client.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
