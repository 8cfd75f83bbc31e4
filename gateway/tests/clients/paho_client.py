"""paho-mqtt, told by a line of JSON what to do, telling in a line of JSON what happened.

Commands and events are those of mqttjs_client.js; gateway/tests/end_to_end/common/foreign.rs speaks to both.
"""
import json
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

lock = threading.Lock()


def tell(event, **facts):
    with lock:
        print(json.dumps({"event": event, **facts}), flush=True)


def code(reason):
    return reason if isinstance(reason, int) else reason.value


def sentence(properties):
    return getattr(properties, "ReasonString", None) if properties else None


class Client:
    def __init__(self):
        self.client = None
        self.version = 4

    def connect(self, order):
        self.version = order["version"]
        more = {} if self.version == 5 else {"clean_session": order["clean"]}
        protocol = {3: mqtt.MQTTv31, 4: mqtt.MQTTv311, 5: mqtt.MQTTv5}[self.version]
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=order["client_id"], protocol=protocol,
            reconnect_on_failure=False, transport="websockets" if order.get("websocket") else "tcp", **more)
        self.client = client
        if order.get("websocket"):
            client.ws_set_options(path=order["websocket"])
        if order.get("user_name") is not None:
            client.username_pw_set(order["user_name"], order["password"])
        if order.get("ca"):
            client.tls_set(ca_certs=order["ca"])
        if order.get("will"):
            will = order["will"]
            client.will_set(will["topic"], will["payload"], will["qos"], will["retain"])
        client.on_connect = lambda _c, _u, flags, reason, properties: tell(
            "connack", code=self.connack_code(reason), present=bool(flags.session_present), reason=sentence(properties))
        client.on_subscribe = lambda _c, _u, _mid, reasons, properties: tell(
            "suback", codes=[code(reason) for reason in reasons], reason=sentence(properties))
        client.on_unsubscribe = lambda _c, _u, _mid, _reasons, _properties: tell("unsuback")
        client.on_publish = lambda _c, _u, _mid, reason, properties: tell(
            "published", code=code(reason) if self.version == 5 else 0, reason=sentence(properties))
        client.on_message = self.message
        client.on_disconnect = lambda _c, _u, flags, reason, properties: tell(
            "closed", by_server=flags.is_disconnect_packet_from_server,
            code=code(reason) if flags.is_disconnect_packet_from_server else None, reason=sentence(properties))
        start = {}
        if self.version == 5:
            start["clean_start"] = order["clean"]
            properties = Properties(PacketTypes.CONNECT)
            if "session_expiry" in order:
                properties.SessionExpiryInterval = order["session_expiry"]
            if "method" in order:
                properties.AuthenticationMethod = order["method"]
            if "data" in order:
                properties.AuthenticationData = order["data"].encode()
            if "user" in order:
                properties.UserProperty = [tuple(pair) for pair in order["user"]]
            start["properties"] = properties
        client.connect(order["host"], order["port"], keepalive=order.get("keep_alive", 60), **start)
        client.loop_start()

    def connack_code(self, reason):
        """paho gives 3.1.1 codes as those of MQTT 5; told are the codes of the version."""
        if self.version == 5:
            return code(reason)
        back = {0: 0, 0x84: 1, 0x85: 2, 0x88: 3, 0x86: 4, 0x87: 5}
        return back.get(code(reason), code(reason))

    def message(self, _client, _userdata, message):
        properties = message.properties
        tell("message", topic=message.topic, payload=message.payload.decode("utf-8", "replace"), qos=message.qos,
             retain=bool(message.retain), user=[list(pair) for pair in getattr(properties, "UserProperty", [])] if properties else [])

    def subscribe(self, order):
        if self.version == 5:
            self.client.subscribe([(name, SubscribeOptions(qos=qos)) for name, qos in order["filters"]])
        else:
            self.client.subscribe([(name, qos) for name, qos in order["filters"]])

    def unsubscribe(self, order):
        self.client.unsubscribe(order["filters"])

    def publish(self, order):
        more = {}
        if self.version == 5 and order.get("user"):
            properties = Properties(PacketTypes.PUBLISH)
            for name, value in order["user"]:
                properties.UserProperty = (name, value)
            more["properties"] = properties
        self.client.publish(order["topic"], order["payload"], order["qos"], order["retain"], **more)

    def disconnect(self, _order):
        self.client.disconnect()


client = Client()
for line in sys.stdin:
    order = json.loads(line)
    try:
        getattr(client, order["do"])(order)
    except Exception as error:  # A test reads it and says what it expected instead.
        tell("error", error=repr(error))
