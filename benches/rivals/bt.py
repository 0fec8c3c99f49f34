"""What BitTorrent programs need around them: a torrent, a tracker, and libtorrent's own client.

    bt.py make CONTENT TORRENT TRACKER_URL
    bt.py track ADDR PORT
    bt.py libtorrent ADDR TORRENT DIR MARKER [SEED_ADDR]
"""
import hashlib
import http.server
import os
import socket
import sys
import time
import urllib.parse

PIECE = 1 << 18


def encode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    return b"d%se" % b"".join(encode(k) + encode(v) for k, v in sorted(value.items()))


def make(content, torrent, tracker):
    pieces = b""
    with open(content, "rb") as file:
        while part := file.read(PIECE):
            pieces += hashlib.sha1(part).digest()
    info = {b"length": os.path.getsize(content), b"name": b"content", b"piece length": PIECE, b"pieces": pieces}
    with open(torrent, "wb") as file:
        file.write(encode({b"announce": tracker.encode(), b"info": info}))


def track(addr, port):
    known = {}

    class Tracker(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query, encoding="latin-1")
            me = (self.client_address[0], int(asked["port"][0]))
            known[me] = True
            peers = b"".join(socket.inet_aton(a) + p.to_bytes(2, "big") for a, p in known if (a, p) != me)
            # Often, so that those who started together find each other.
            body = encode({b"interval": 5, b"min interval": 5, b"peers": peers})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    http.server.ThreadingHTTPServer((addr, int(port)), Tracker).serve_forever()


def libtorrent(addr, torrent, folder, marker, seed=None):
    import libtorrent as lt

    settings = lt.high_performance_seed()
    settings.update({
        "listen_interfaces": addr + ":6881", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
        "enable_natpmp": False, "unchoke_slots_limit": -1, "allow_multiple_connections_per_ip": True,
        "max_out_request_queue": 1500, "send_buffer_watermark": 3 << 20, "request_queue_time": 3,
        # uTP gives way to what fills a queue, which is all there is here.
        "enable_outgoing_utp": False, "enable_incoming_utp": False, "alert_mask": 0,
        "announce_to_all_trackers": True, "min_reconnect_time": 1, "torrent_connect_boost": 50,
    })
    session = lt.session(settings)
    params = {"ti": lt.torrent_info(torrent), "save_path": folder}
    if seed is None:
        params["flags"] = lt.torrent_flags.seed_mode
    handle = session.add_torrent(params)
    handle.resume()
    if seed is not None:
        handle.connect_peer((seed, 6881))
    while not handle.status().is_seeding:
        time.sleep(0.01)
    session.pop_alerts()
    handle.flush_cache()
    # Written back by now: the check of the bytes comes after it.
    time.sleep(0.01)
    open(marker, "w").close()
    while True:
        time.sleep(1)


{"make": make, "track": track, "libtorrent": libtorrent}[sys.argv[1]](*sys.argv[2:])
