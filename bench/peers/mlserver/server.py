"""Models for MLServer, in its own protocol; models/<workload>/model-settings.json names them."""

from __future__ import annotations

import asyncio
import time

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Echo(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = payload.inputs[0]
        output = ResponseOutput(name="y", shape=given.shape, datatype=given.datatype, data=given.data)
        return InferenceResponse(model_name=self.name, outputs=[output])


class Sleep(Echo):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        await asyncio.sleep(0.01)
        return await super().predict(payload)


class Batch(Echo):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        time.sleep(0.005 + 0.0002 * payload.inputs[0].shape[0])  # noqa: ASYNC251 - a model computes where it is
        return await super().predict(payload)
