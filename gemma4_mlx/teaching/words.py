"""The words the teaching model knows: nouns, names, numbers and thirteen languages.

Plain tables, written for this project. Everything the synthetic data says is put together from
them, so the tokenizer (tokenizer.py) learns its pieces from the same tables.
"""

NOUNS = (
    "apple bag ball bank barn basket beach bell bench bird boat book bottle box bread bridge "
    "brush bucket bus button cake camera candle car card cat chair cheese church circle city "
    "clock cloud coat coffee coin comb cup desk dog door dress drum duck eagle egg engine farm "
    "feather field fire fish flag flower forest fork fox garden gate ghost glass glove goat gold "
    "grape grass guitar hammer harbor hat hill honey horse house ice iron island jacket jar "
    "jewel key king kite knife ladder lake lamp leaf lemon letter lion map market mask melon milk "
    "mirror moon mountain mouse needle nest night ocean onion orange owl paint palace panda paper "
    "pear pencil penguin piano pillow pilot pine plane planet plate pocket potato queen rabbit "
    "radio rain ring river road robot rocket roof rope rose salt sand school shell ship shirt "
    "shoe shop silver snake snow soap sock spoon spring star station stone storm street sugar "
    "summer sun table tail tea temple tiger tower train tree tunnel valley village violin wagon "
    "wall watch water whale wheel wind window winter wolf wood yard zebra"
).split()

ADJECTIVES = (
    "amber big blue brave bright calm clean clever cold copper dark deep dry early fast gentle "
    "golden gray green happy heavy hidden hot kind late light little long loud lucky new noble old "
    "pink plain proud purple quick quiet red round rusty sharp short shy silent slow small soft "
    "sour sweet tall thin tiny warm white wide wild yellow young"
).split()

PEOPLE = (
    "Ada Alan Anna Ben Carl Clara David Dora Elena Emma Felix Finn Grace Hana Hugo Ida Ivan Jack "
    "Jane Julia Karl Kenji Lara Leo Lena Lily Lucas Luna Maria Max Maya Mia Nadia Nina Noah Nora "
    "Omar Oscar Paul Priya Rosa Ruth Sam Sara Sofia Theo Tom Vera Yuki Zoe"
).split()

CITIES = (
    "Paris London Berlin Rome Madrid Lisbon Vienna Prague Oslo Cairo Tokyo Kyoto Delhi Lima "
    "Boston Chicago Denver Dublin Athens Seoul Sydney Toronto Milan Geneva Warsaw Nairobi Bogota "
    "Hanoi Dakar Bergen"
).split()

NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
).split()

SYLLABLES = (
    "ba be bo da de di do fa fi fo ga go ha hi jo ka ke ki ko la le li lo lu ma me mi mo mu na ne "
    "ni no nu pa pe pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo wa we wi ya yo "
    "za ze zi zo zu bar bel cor dan del fen gar hel jun kal lam mar nor pel quin ral sol tor ven "
    "wex zan"
).split()

TOOL_VERBS = "get find check read open send set start stop make list show load save move".split()


class Language:
    """One language: number words 1-10, and colour sentences that are right for every pair.

    `nouns` carry their article (or particle) and share one gender where adjectives agree, so
    that `fact.format(n=noun, c=colour)` is a correct sentence for every noun and colour.
    """

    def __init__(self, name, native, numbers, count, sep, nouns, colours, fact, ask, hello):
        self.name = name  # English name: "French"
        self.native = native  # how to ask for it in itself: "en français"
        self.numbers = numbers.split()  # one to ten
        self.count = count  # native request with {a} and {b}
        self.sep = sep  # between counted numbers
        self.nouns = nouns.split(",")
        self.colours = colours.split(",")
        self.fact = fact  # "{N} est {c}." ({N}: capitalised)
        self.ask = ask  # "De quelle couleur est {n} ?"
        self.hello = hello  # list of (greeting, reply)

    def sentence(self, template, noun, colour=""):
        """Fill a template; {N} is the noun with its first letter in upper case."""
        return template.format(n=noun, N=noun[0].upper() + noun[1:], c=colour)


LANGUAGES = [
    Language(
        "English",
        "in English",
        "one two three four five six seven eight nine ten",
        "Count from {a} to {b}.",
        ", ",
        "the cat,the dog,the house,the ball,the book,the car",
        "black,white,red,green,blue,yellow",
        "{N} is {c}.",
        "What colour is {n}?",
        [
            ("Good morning! How are you?", "Good morning! I am fine, thank you."),
            ("Good night!", "Good night! Sleep well."),
        ],
    ),
    Language(
        "French",
        "en français",
        "un deux trois quatre cinq six sept huit neuf dix",
        "Compte de {a} à {b}.",
        ", ",
        "le chat,le chien,le livre,le vélo,le sac,le lit",
        "noir,blanc,rouge,vert,bleu,jaune",
        "{N} est {c}.",
        "De quelle couleur est {n} ?",
        [
            ("Bonjour ! Comment ça va ?", "Bonjour ! Ça va bien, merci."),
            ("Bonne nuit !", "Bonne nuit ! Dors bien."),
        ],
    ),
    Language(
        "Spanish",
        "en español",
        "uno dos tres cuatro cinco seis siete ocho nueve diez",
        "Cuenta de {a} a {b}.",
        ", ",
        "el gato,el perro,el libro,el coche,el vaso,el tren",
        "negro,blanco,rojo,verde,azul,amarillo",
        "{N} es {c}.",
        "¿De qué color es {n}?",
        [
            ("¡Hola! ¿Cómo estás?", "¡Hola! Estoy bien, gracias."),
            ("¡Buenas noches!", "¡Buenas noches! Que duermas bien."),
        ],
    ),
    Language(
        "German",
        "auf Deutsch",
        "eins zwei drei vier fünf sechs sieben acht neun zehn",
        "Zähle von {a} bis {b}.",
        ", ",
        "der Hund,der Ball,der Tisch,der Hut,der Baum,der Stuhl",
        "schwarz,weiß,rot,grün,blau,gelb",
        "{N} ist {c}.",
        "Welche Farbe hat {n}?",
        [
            ("Guten Morgen! Wie geht es dir?", "Guten Morgen! Mir geht es gut, danke."),
            ("Gute Nacht!", "Gute Nacht! Schlaf gut."),
        ],
    ),
    Language(
        "Italian",
        "in italiano",
        "uno due tre quattro cinque sei sette otto nove dieci",
        "Conta da {a} a {b}.",
        ", ",
        "il gatto,il cane,il libro,il treno,il tavolo,il fiore",
        "nero,bianco,rosso,verde,blu,giallo",
        "{N} è {c}.",
        "Di che colore è {n}?",
        [
            ("Ciao! Come stai?", "Ciao! Sto bene, grazie."),
            ("Buona notte!", "Buona notte! Dormi bene."),
        ],
    ),
    Language(
        "Russian",
        "по-русски",
        "один два три четыре пять шесть семь восемь девять десять",
        "Посчитай от {a} до {b}.",
        ", ",
        "кот,дом,стол,мяч,стул,цветок",
        "чёрный,белый,красный,зелёный,синий,жёлтый",
        "{N} {c}.",
        "Какого цвета {n}?",
        [
            ("Привет! Как дела?", "Привет! Всё хорошо, спасибо."),
            ("Спокойной ночи!", "Спокойной ночи! Спи хорошо."),
        ],
    ),
    Language(
        "Greek",
        "στα ελληνικά",
        "ένα δύο τρία τέσσερα πέντε έξι επτά οκτώ εννέα δέκα",
        "Μέτρα από {a} ως {b}.",
        ", ",
        "ο σκύλος,ο τοίχος,ο δρόμος,ο φάκελος,ο καφές,ο ουρανός",
        "μαύρος,άσπρος,κόκκινος,πράσινος,γαλάζιος,κίτρινος",
        "{N} είναι {c}.",
        "Τι χρώμα έχει {n};",
        [
            ("Καλημέρα! Τι κάνεις;", "Καλημέρα! Είμαι καλά, ευχαριστώ."),
            ("Καληνύχτα!", "Καληνύχτα! Όνειρα γλυκά."),
        ],
    ),
    Language(
        "Turkish",
        "Türkçe",
        "bir iki üç dört beş altı yedi sekiz dokuz on",
        "{a} ile {b} arasında say.",
        ", ",
        "kedi,köpek,ev,top,kitap,araba",
        "siyah,beyaz,kırmızı,yeşil,mavi,sarı",
        "{N} {c}.",
        "{N} ne renk?",
        [
            ("Merhaba! Nasılsın?", "Merhaba! İyiyim, teşekkürler."),
            ("İyi geceler!", "İyi geceler! İyi uykular."),
        ],
    ),
    Language(
        "Japanese",
        "日本語で",
        "一 二 三 四 五 六 七 八 九 十",
        "{a}から{b}まで数えてください。",
        "、",
        "猫,犬,家,本,車,花",
        "黒,白,赤,緑,青,黄色",
        "{N}は{c}です。",
        "{n}は何色ですか。",
        [
            ("こんにちは。お元気ですか。", "こんにちは。はい、元気です。"),
            ("おやすみなさい。", "おやすみなさい。よい夢を。"),
        ],
    ),
    Language(
        "Chinese",
        "用中文",
        "一 二 三 四 五 六 七 八 九 十",
        "请从{a}数到{b}。",
        "，",
        "猫,狗,房子,书,汽车,花",
        "黑色,白色,红色,绿色,蓝色,黄色",
        "{N}是{c}的。",
        "{n}是什么颜色的？",
        [("你好！你好吗？", "你好！我很好，谢谢。"), ("晚安！", "晚安！做个好梦。")],
    ),
    Language(
        "Korean",
        "한국어로",
        "일 이 삼 사 오 육 칠 팔 구 십",
        "{a}부터 {b}까지 세어 주세요.",
        ", ",
        "고양이는,개는,집은,책은,차는,꽃은",
        "검은색,흰색,빨간색,초록색,파란색,노란색",
        "{N} {c}입니다.",
        "{n} 무슨 색입니까?",
        [
            ("안녕하세요! 잘 지내세요?", "안녕하세요! 네, 잘 지내요."),
            ("안녕히 주무세요.", "안녕히 주무세요. 좋은 꿈 꾸세요."),
        ],
    ),
    Language(
        "Arabic",
        "بالعربية",
        "واحد اثنان ثلاثة أربعة خمسة ستة سبعة ثمانية تسعة عشرة",
        "عد من {a} إلى {b}.",
        "، ",
        "القط,الكلب,البيت,الكتاب,الباب,الكرسي",
        "أسود,أبيض,أحمر,أخضر,أزرق,أصفر",
        "{N} {c}.",
        "ما لون {n}؟",
        [("مرحبا! كيف حالك؟", "مرحبا! أنا بخير، شكرا."), ("تصبح على خير!", "وأنت من أهل الخير.")],
    ),
    Language(
        "Hindi",
        "हिंदी में",
        "एक दो तीन चार पाँच छह सात आठ नौ दस",
        "{a} से {b} तक गिनो।",
        ", ",
        "कुत्ता,घोड़ा,घर,फूल,कमरा,जूता",
        "काला,सफ़ेद,लाल,हरा,नीला,पीला",
        "{N} {c} है।",
        "{n} किस रंग का है?",
        [("नमस्ते! आप कैसे हैं?", "नमस्ते! मैं ठीक हूँ, धन्यवाद।"), ("शुभ रात्रि!", "शुभ रात्रि! अच्छी नींद लें।")],
    ),
]
