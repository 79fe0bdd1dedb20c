"""A headless Chromium, driven through the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_S = 120


class Page:
    """An open page. `messages` are errors of the console and of scripts; `requests` the addresses it asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number, self._answers = socket, 0, {}
        self.messages: list[str] = []
        self.requests: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            found = json.loads(message.data)
            if "id" in found:
                self._answers.pop(found["id"]).set_result(found)
            elif found["method"] == "Network.requestWillBeSent":
                self.requests.append(found["params"]["request"]["url"])
            elif found["method"] == "Runtime.exceptionThrown":
                self.messages.append(str(found["params"]["exceptionDetails"])[:500])
            elif found["method"] == "Runtime.consoleAPICalled" and found["params"]["type"] in ("error", "warning"):
                self.messages.append(str(found["params"]["args"])[:500])
            elif found["method"] == "Log.entryAdded" and found["params"]["entry"]["level"] == "error":
                self.messages.append(str(found["params"]["entry"])[:500])

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        self._answers[self._number] = answer = asyncio.get_running_loop().create_future()
        await self._socket.send_str(json.dumps({"id": self._number, "method": method, "params": params}))
        found = await asyncio.wait_for(answer, PATIENCE_S)
        assert "error" not in found, found
        return found["result"]

    async def run(self, code: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        found = await self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, code: str) -> None:
        """Wait until an expression is true."""
        for _ in range(PATIENCE_S * 10):
            if await self.run(code):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"never true: {code}")

    async def key(self, name: str) -> None:
        codes = {"Tab": 9, "Enter": 13, "Escape": 27}
        text = {"text": "\r"} if name == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.send(
                "Input.dispatchKeyEvent", type=kind, key=name, code=name, windowsVirtualKeyCode=codes[name],
                **(text if kind == "keyDown" else {}),
            )  # fmt: skip

    async def resize(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def picture(self, path: Path) -> None:
        found = await self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))


def browse(address: str, profile: Path, visit: Callable[[Page], Awaitable[None]], *, dark: bool = False) -> None:
    """Open an address and call `visit` with the page once it has loaded."""
    assert PROGRAM is not None
    command = [
        PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    browser = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        assert browser.stderr is not None
        for line in browser.stderr:
            if found := re.search(r"ws://127\.0\.0\.1:(\d+)/", line):
                break
        else:
            raise AssertionError("chromium did not start")
        asyncio.run(_visit(int(found[1]), address, visit, dark))
    finally:
        browser.kill()
        browser.wait()
        browser.stderr.close()


async def _visit(port: int, address: str, visit: Callable[[Page], Awaitable[None]], dark: bool) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            target = next(one for one in await answer.json() if one["type"] == "page")
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=2**28) as socket:
            page = Page(socket)
            listening = asyncio.create_task(page.listen())
            for domain in ("Page", "Runtime", "Network", "Log"):
                await page.send(f"{domain}.enable")
            await page.resize(1280, 900, dark=dark)
            await page.send("Page.navigate", url=address)
            await page.until("document.readyState === 'complete' && document.documentElement.dataset.ready === 'yes'")
            await visit(page)
            listening.cancel()
