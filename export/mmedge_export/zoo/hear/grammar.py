"""The sentences of requests and the parts that fill them, English and Chinese side by side.

They are what one asks of a robot, or of an assistant that answers questions about a picture (the
107 questions of easy-vqa are all here) and draws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmedge_export.zoo.hear.numbers import in_chinese, in_english

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Parts = Sequence[tuple[str, str]]

__all__ = ["FAMILIES", "FIXED", "Family"]


@dataclass(frozen=True)
class Family:
    """A sentence with places to fill in.

    Attributes:
        english: the sentence, with ``{name}`` of each place.
        chinese: its translation, with the same places.
        parts: what may be filled in, English and Chinese, by place.
        known: how many requests training hears; None: all.
        unseen: how many of the others are held out for tests.
    """

    english: str
    chinese: str
    parts: Mapping[str, Parts]
    known: int | None = None
    unseen: int = 0


COLORS: Parts = (
    ("black", "黑色"), ("blue", "蓝色"), ("brown", "棕色"), ("gray", "灰色"),
    ("green", "绿色"), ("red", "红色"), ("teal", "青色"), ("yellow", "黄色"),
)  # fmt: skip
SHAPES: Parts = (("circle", "圆形"), ("rectangle", "矩形"), ("triangle", "三角形"))
SIZES: Parts = (("", ""), ("small", "小"), ("big", "大"))
PLACES: Parts = (
    ("", ""), ("at the left", "在左边"), ("at the right", "在右边"), ("at the top", "在上面"),
    ("at the bottom", "在下面"), ("in the middle", "在中间"),
)  # fmt: skip
THINGS: Parts = (
    ("box", "盒子"), ("ball", "球"), ("cup", "杯子"), ("book", "书"), ("bottle", "瓶子"),
    ("bag", "包"),
)  # fmt: skip
SURFACES: Parts = (
    ("table", "桌子"), ("shelf", "架子"), ("chair", "椅子"), ("floor", "地板"),
)  # fmt: skip
ROOMS: Parts = (
    ("kitchen", "厨房"), ("bedroom", "卧室"), ("bathroom", "浴室"), ("living room", "客厅"),
    ("garage", "车库"), ("garden", "花园"), ("office", "办公室"), ("hallway", "走廊"),
)  # fmt: skip
ITEMS: Parts = (
    ("key", "钥匙"), ("phone", "手机"), ("towel", "毛巾"), ("spoon", "勺子"), ("cup", "杯子"),
    ("newspaper", "报纸"), ("medicine", "药"), ("jacket", "外套"),
)  # fmt: skip
DEVICES: Parts = (
    ("light", "灯"), ("fan", "风扇"), ("television", "电视"), ("radio", "收音机"),
    ("heater", "暖气"), ("camera", "摄像头"),
)  # fmt: skip
FITTINGS: Parts = (
    ("door", "门"), ("window", "窗户"), ("drawer", "抽屉"), ("curtain", "窗帘"),
    ("fridge", "冰箱"), ("gripper", "夹爪"),
)  # fmt: skip
SETTINGS: Parts = (
    ("speed", "速度"), ("volume", "音量"), ("brightness", "亮度"), ("temperature", "温度"),
)  # fmt: skip
SIDES: Parts = (("left", "左"), ("right", "右"))
WAYS: Parts = (("forward", "前"), ("backward", "后"))

#: Where easy-vqa asks for a color.
ANY_SHAPE: Parts = (*SHAPES, ("shape", "图形"))
#: What a picture of easy-vqa may hold, as its questions say it.
OBJECTS: Parts = (*((f"{color} shape", f"{zh}图形") for color, zh in COLORS), *SHAPES)
#: More than easy-vqa asks for.
COLORED_SHAPES: Parts = tuple(
    (f"{color} {shape}", f"{zh_color}的{zh_shape}")
    for color, zh_color in COLORS
    for shape, zh_shape in SHAPES
)
COLORED_THINGS: Parts = tuple(
    (f"{color} {thing}", f"{zh_color}的{zh_thing}")
    for color, zh_color in COLORS
    for thing, zh_thing in THINGS
)


def _numbers(numbers: Iterable[int], *, counts: bool = True) -> Parts:
    return tuple((in_english(n), in_chinese(n, counts=counts)) for n in numbers)


FIXED: dict[str, str] = {
    "stop": "停下",
    "start": "开始",
    "go home": "回家",
    "come here": "过来",
    "follow me": "跟我来",
    "wait a moment": "等一下",
    "turn around": "掉头",
    "go to the charging station": "去充电站",
    "slow down": "慢一点",
    "speed up": "快一点",
    "be quiet": "安静",
    "speak louder": "大声一点",
    "say that again": "再说一遍",
    "never mind": "算了",
    "help me": "帮帮我",
    "hello": "你好",
    "good morning": "早上好",
    "good night": "晚安",
    "thank you": "谢谢",
    "yes": "是",
    "no": "不是",
    "what time is it": "现在几点",
    "what day is it today": "今天星期几",
    "what is the weather like": "天气怎么样",
    "what is your name": "你叫什么名字",
    "what can you do": "你会做什么",
    "what do you see": "你看见什么",
    "what are you doing": "你在做什么",
    "where are you": "你在哪里",
    "how are you": "你好吗",
    "how much battery is left": "还剩多少电",
    "how fast are you going": "你走得多快",
    "is anyone at home": "家里有人吗",
    "is there something in front of you": "你前面有东西吗",
    "take a picture": "拍一张照片",
    "show me the picture": "给我看图像",
    "clear the picture": "清除图像",
    "read the label": "读标签",
    "translate the label": "翻译标签",
    "make it bigger": "把它变大",
    "make it smaller": "把它变小",
    "open the gripper slowly": "慢慢打开夹爪",
    "drive forward one meter": "向前开一米",
    "drive backward one meter": "向后开一米",
    "wait one minute": "等一分钟",
    "look up": "向上看",
    "look down": "向下看",
    "water the plants": "给植物浇水",
    "lock the front door": "锁上前门",
    "play some music": "放点音乐",
    "wake me up tomorrow morning": "明天早上叫醒我",
}
"""Requests without a place to fill in."""

FAMILIES: tuple[Family, ...] = (
    # The questions of easy-vqa.
    Family("does the image contain a {object}", "图像包含{object}吗", {"object": OBJECTS}),
    Family("does the image not contain a {object}", "图像不包含{object}吗", {"object": OBJECTS}),
    Family("is a {object} present", "有{object}吗", {"object": OBJECTS}),
    Family("is no {object} present", "没有{object}吗", {"object": OBJECTS}),
    Family("is there a {object} in the image", "图像里有{object}吗", {"object": OBJECTS}),
    Family("is there a {object}", "有{object}吗", {"object": OBJECTS}),
    Family("is there not a {object} in the image", "图像里没有{object}吗", {"object": OBJECTS}),
    Family("is there not a {object}", "没有{object}吗", {"object": OBJECTS}),
    Family(
        "what color is the {shape}", "{shape}是什么颜色", {"shape": (*SHAPES, ("shape", "图形"))}
    ),
    Family(
        "what is the color of the {shape}",
        "{shape}的颜色是什么",
        {"shape": ANY_SHAPE},
    ),
    Family("what is the {color} shape", "{color}图形是什么", {"color": COLORS}),
    Family(
        "what shape {verb}",
        "{verb}什么图形",
        {
            "verb": (
                ("does the image contain", "图像包含"),
                ("is in the image", "图像里是"),
                ("is present", "有"),
            )
        },
    ),
    # More about pictures, and drawing.
    Family(
        "is there a {object} in the image", "图像里有{object}吗", {"object": COLORED_SHAPES}, 16, 8
    ),
    Family("is there a {object}", "有{object}吗", {"object": COLORED_SHAPES}, 16, 8),
    Family("where is the {object}", "{object}在哪里", {"object": COLORED_SHAPES}, 16, 8),
    Family(
        "draw a {size} {color} {shape} {place}",
        "{place}画一个{color}的{size}{shape}",
        {"size": SIZES, "color": COLORS, "shape": SHAPES, "place": PLACES},
        220,
        70,
    ),
    # To a robot.
    Family(
        "{verb} the {object}",
        "{verb}{object}",
        {
            "verb": (
                ("pick up", "拿起"),
                ("put down", "放下"),
                ("bring me", "给我拿"),
                ("find", "找到"),
                ("look at", "看"),
            ),
            "object": COLORED_THINGS,
        },
        150,
        50,
    ),
    Family("where is the {object}", "{object}在哪里", {"object": COLORED_THINGS}, 30, 12),
    Family(
        "put the {object} on the {surface}",
        "把{object}放在{surface}上",
        {"object": COLORED_THINGS, "surface": SURFACES},
        100,
        40,
    ),
    Family(
        "bring me the {item} from the {room}",
        "从{room}把{item}拿给我",
        {"item": ITEMS, "room": ROOMS},
        40,
        20,
    ),
    Family(
        "{verb} the {room}",
        "{verb}{room}",
        {"verb": (("go to", "去"), ("clean", "打扫")), "room": ROOMS},
        12,
        4,
    ),
    Family("how far is the {room}", "{room}有多远", {"room": ROOMS}),
    Family(
        "drive {way} {number} meters",
        "向{way}开{number}米",
        {"way": WAYS, "number": _numbers(range(2, 21))},
        26,
        12,
    ),
    Family("turn {side}", "向{side}转", {"side": SIDES}),
    Family("look to the {side}", "向{side}看", {"side": SIDES}),
    Family(
        "turn {side} {number} degrees",
        "向{side}转{number}度",
        {"side": SIDES, "number": _numbers((*range(10, 100, 10), 15, 45))},
        15,
        7,
    ),
    Family(
        "wait {number} {unit}",
        "等{number}{unit}",
        {
            "number": _numbers((*range(2, 21), *range(25, 61, 5))),
            "unit": (("seconds", "秒"), ("minutes", "分钟")),
        },
        34,
        16,
    ),
    Family(
        "{verb} the {fitting}",
        "{verb}{fitting}",
        {"verb": (("open", "打开"), ("close", "关上")), "fitting": FITTINGS},
    ),
    Family(
        "turn {verb} the {device}",
        "{verb}{device}",
        {"verb": (("on", "打开"), ("off", "关掉")), "device": DEVICES},
    ),
    Family(
        "turn {verb} the {device} in the {room}",
        "{verb}{room}的{device}",
        {"verb": (("on", "打开"), ("off", "关掉")), "device": DEVICES, "room": ROOMS},
        50,
        25,
    ),
    Family(
        "set the {setting} to {number}",
        "把{setting}设为{number}",
        {"setting": SETTINGS, "number": _numbers(range(100), counts=False)},
        180,
        60,
    ),
)
"""Every sentence with places to fill in."""
