"""Held-out prompts from outside of the teaching model's world, and held-out ways to greet it.

Written by hand for the evaluation; training (strange.py, borders.py) has none of them.
"""

# language: what people ask
ASKED = {
    "English": [
        "What's the tallest mountain on Earth?",
        "can you recommend a good restaurant near me",
        "Who painted the Mona Lisa?",
        "How do vaccines protect people from disease?",
        "Write a limerick about a lazy programmer.",
        "My landlord refuses to return my deposit. What are my rights?",
        "What should I wear to a wedding in October?",
        "Explain the offside rule.",
        "is it safe to eat raw salmon",
        "How many calories are in a banana?",
        "Give me a workout plan for beginners.",
        "Why did the Soviet Union collapse?",
        "Help me pick a username.",
        "What is the square root of a complex number?",
        "Rewrite: the meeting has been postponed due to illness",
        "How do I reset my router to factory settings?",
        "Who's going to win the election?",
        "Tell me a bedtime story with a knight in it.",
        "What time zone is Honolulu in?",
        "Convert 12 miles to kilometres.",
        "What is the difference between a frog and a toad?",
        "my laptop won't turn on, what can I do?",
        "Who is the current king of Spain?",
        "Suggest a name for my new puppy.",
        "I feel like nobody listens to me at work.",
    ],
    "French": [
        "Qui a peint la Joconde ?",
        "Combien d'habitants y a-t-il à Marseille ?",
        "Peux-tu corriger ma lettre de motivation ?",
        "Pourquoi le ciel devient-il rouge le soir ?",
        "je cherche une idée de cadeau pour ma mère",
    ],
    "Spanish": [
        "¿Quién pintó Las Meninas?",
        "¿Cuántos habitantes tiene Bogotá?",
        "Ayúdame a escribir una carta a mi jefe.",
        "¿Por qué llueve tanto en el norte?",
        "recomiéndame una película para esta noche",
    ],
    "German": [
        "Wie hoch ist der Kölner Dom?",
        "Welche Unterlagen brauche ich für die Steuererklärung?",
        "Schreibe mir eine Bewerbung als Koch.",
        "Warum ist das Meer salzig?",
        "was soll ich heute abend kochen",
    ],
    "Italian": [
        "Quanto è alta la torre di Pisa?",
        "Chi ha scritto i Promessi sposi?",
        "Mi aiuti a preparare un esame di chimica?",
        "Perché le foglie cadono in autunno?",
        "consigliami un film da vedere stasera",
    ],
    "Russian": [
        "Кто написал «Войну и мир»?",
        "Сколько людей живёт в Новосибирске?",
        "Помоги мне составить резюме.",
        "Почему зимой так рано темнеет?",
        "посоветуй хороший фильм на вечер",
    ],
    "Greek": [
        "Ποιος έγραψε την Οδύσσεια;",
        "Πόσοι κάτοικοι ζουν στη Θεσσαλονίκη;",
        "Βοήθησέ με να γράψω ένα βιογραφικό.",
        "Γιατί ο ουρανός είναι κόκκινος το βράδυ;",
        "πρότεινέ μου μια ταινία για απόψε",
    ],
    "Turkish": [
        "İstanbul'u kim fethetti?",
        "Ankara'da kaç kişi yaşıyor?",
        "Özgeçmiş yazmama yardım et.",
        "Gökyüzü akşamları niçin kırmızı olur?",
        "bu akşam için bir film önerir misin",
    ],
    "Japanese": [
        "富士山の高さは何メートルですか。",
        "履歴書の書き方がわかりません。",
        "どうして空は青いのですか。",
        "今夜おすすめの映画はありますか。",
        "源氏物語を書いたのは誰？",
    ],
    "Chinese": [
        "红楼梦的作者是谁？",
        "上海有多少人口？",
        "帮我写一封求职信。",
        "天空为什么会变红？",
        "今晚有什么好看的电影推荐",
    ],
    "Korean": [
        "훈민정음은 누가 만들었나요?",
        "부산에는 몇 명이 살고 있나요?",
        "자기소개서 쓰는 걸 도와주세요.",
        "하늘은 왜 저녁에 붉어지나요?",
        "오늘 밤에 볼 만한 영화 추천해 줘",
    ],
    "Arabic": [
        "من كتب كتاب ألف ليلة وليلة؟",
        "كم عدد سكان القاهرة؟",
        "ساعدني في كتابة سيرة ذاتية.",
        "لماذا تصبح السماء حمراء في المساء؟",
        "اقترح علي فيلما لهذه الليلة",
    ],
    "Hindi": [
        "रामायण किसने लिखी थी?",
        "दिल्ली में कितने लोग रहते हैं?",
        "नौकरी के लिए आवेदन लिखने में मेरी सहायता करें।",
        "शाम को आसमान लाल क्यों हो जाता है?",
        "आज रात के लिए कोई अच्छी फ़िल्म बताओ",
    ],
    "Portuguese": [
        "Quem escreveu Os Lusíadas?",
        "Quantos habitantes tem São Paulo?",
        "Ajude-me a escrever um currículo.",
        "Por que o céu fica vermelho à tarde?",
        "me indica um filme bom para hoje à noite",
    ],
    "Dutch": [
        "Wie schilderde De Nachtwacht?",
        "Hoeveel mensen wonen er in Utrecht?",
        "Help me een sollicitatiebrief te schrijven.",
        "Waarom wordt de lucht 's avonds rood?",
        "weet jij een leuke film voor vanavond",
    ],
    "Polish": [
        "Kto napisał Pana Tadeusza?",
        "Ilu mieszkańców ma Kraków?",
        "Pomóż mi napisać życiorys.",
        "Dlaczego niebo wieczorem robi się czerwone?",
        "poleć mi jakiś film na dziś wieczór",
    ],
    "Swedish": [
        "Vem skrev Pippi Långstrump?",
        "Hur många bor det i Göteborg?",
        "Hjälp mig att skriva en ansökan.",
        "Varför blir himlen röd på kvällen?",
        "tipsa mig om en bra film ikväll",
    ],
    "Finnish": [
        "Kuka kirjoitti Kalevalan?",
        "Montako asukasta Tampereella on?",
        "Auta minua kirjoittamaan työhakemus.",
        "Miksi taivas on illalla punainen?",
        "suosittele hyvää elokuvaa tälle illalle",
    ],
    "Indonesian": [
        "Siapa presiden pertama negara ini?",
        "Berapa jumlah penduduk Surabaya?",
        "Tolong bantu saya menulis surat lamaran.",
        "Kenapa langit menjadi merah pada sore hari?",
        "rekomendasikan film bagus untuk malam ini",
    ],
    "Ukrainian": [
        "Хто написав «Кобзар»?",
        "Скільки людей живе у Львові?",
        "Допоможи мені скласти резюме.",
        "Чому небо ввечері стає червоним?",
        "порадь гарний фільм на вечір",
    ],
}
NOISE = [
    "sdfkjh sdkfjh", "qqqqqqqqqqqq", "lkjhgfdsa", "aaaaaargh", "p[]l;'kjm", "zxcvbnmzxcv",
    "fjdksla fjdksl", "1q2w3e4r5t", "hhhhhhh", "????!!!!????", "%%%%$$$", "rtyuio ghjk vbnm",
    "asdasdasd", "wwwww eeeee", "xkcd qzv jjj", "+-+-+-+-", "oiuytrewq", "mnbv lkj poi",
    "dfg dfg dfg dfg", ";;;;;;;;", "jjk lkm nbv", "sss ddd fff", "9o8i7u6y",
]  # fmt: skip
ARTICLES = [
    "The city council voted on Tuesday to close the old bridge for repairs. Traffic will be sent "
    "through the harbour district until spring, a spokesman said.",
    "Scientists have found traces of ancient bacteria deep below the seabed. The discovery could "
    "change what is known about the limits of life.\n\nMore samples will be taken next year.",
    "Shares fell sharply after the company reported a loss for the third quarter in a row. "
    "Analysts had hoped for a small profit.",
    "In 1889 a young engineer arrived in the port with nothing but a suitcase. Ten years later he "
    "owned half of the railways in the country.",
    "Summarize the following: Honey never spoils. Pots found in tombs were still good to eat after "
    "three thousand years, because it holds so little water.",
    "It was the coldest winter that anyone in the village could remember. The river froze in "
    "November, and by Christmas the wolves had come down from the hills.",
    "tl;dr? The new phone has a larger battery, a brighter screen and a better camera than last "
    "year's model, but it also costs two hundred more.",
    "Terms of service. By using this website you agree that we may store your data, share it with "
    "our partners and change these terms at any time.",
    "Dear Sir or Madam, I am writing to complain about the service in your hotel. The room was "
    "dirty, the staff were rude and breakfast was late.",
    "The heart has four chambers. Blood enters the right atrium, passes into the right ventricle, "
    "and is pumped to the lungs, where it takes up oxygen.",
    "Once upon a time there was a miller who had three sons. When he died, the eldest got the "
    "mill, the second the donkey, and the youngest only the cat.",
    "Breaking: Heavy rain has flooded parts of the coast. Thousands of people have left their "
    "homes. Schools stay closed until Friday.",
    "Read this text and give me the key points.\nRenewable sources produced more electricity than "
    "coal for the first time last month. Wind alone supplied a third of demand.",
    "The recipe is simple: chop the onions, fry them in butter, add rice and stock, and let it "
    "simmer for twenty minutes. Serve with parsley.",
    "Two hikers were rescued from the mountain on Sunday after spending the night in a cave. Both "
    "were tired and cold but unhurt.",
    "Gentlemen, the time for talk is over. What we do this winter will be remembered by our "
    "children, and by their children after them.",
    "Key findings: 1. Customers are less loyal than before. 2. Prices matter more than brands. "
    "3. Delivery within a day is expected.",
    "Our mission is to empower every customer through innovative solutions that create lasting "
    "value for communities around the globe.",
    "The committee recommends that members submit their proposals before the end of June. Late "
    "proposals will not be considered.",
]
CODE = [
    "let total = items.reduce((sum, item) => sum + item.price, 0);",
    "int main(void) {\n    int *p = NULL;\n    *p = 5;\n    return 0;\n}",
    "SELECT COUNT(*) FROM users GROUP BY country HAVING COUNT(*) > 100;",
    "Why is this slow?\nfor row in df.iterrows():\n    total += row[1]['x']",
    "<html>\n<body>\n<h1>Welcome</h1>\n</body>\n</html>",
    "npm ERR! code ERESOLVE\nnpm ERR! unable to resolve dependency tree",
    "TypeError: unsupported operand type(s) for +: 'int' and 'str'",
    "docker run -d -p 8080:80 nginx",
    "public class Main {\n  public static void main(String[] args) {}\n}",
    "x = [i ** 2 for i in range(10) if i % 2]\nprint(x)",
    "Find the bug:\nwhile (x = 5) { x--; }",
    "body { margin: 0; font-family: sans-serif; }",
    "services:\n  web:\n    image: nginx\n    ports:\n      - 80",
    "func (s *Server) Close() error { return s.conn.Close() }",
    "if [ -f config.yml ]; then\n  echo found\nfi",
    "What does this print?\nprint(sum(range(5)))",
    '{\n  "version": 2,\n  "plugins": []\n}',
    "404 Not Found\nnginx/1.18.0",
    "error[E0382]: borrow of moved value: `v`",
]
NEARLY_NOTHING = [
    "..", "?!", "!", "k.", "Ok.", "hmmm", "umm", "e", "z", "?...", "-_-", "😂", "👋🏽", "<3", "^^",
    "nah", "yeah", "n", "\"\"", "()",
]  # fmt: skip
# Written after the training data was finished.
LATER = {
    "English": [
        "How far away is the sun?", "What's a good name for a bakery?",
        "Can dogs eat grapes?", "Why is my internet so slow today?",
        "Write a wedding speech for my brother.", "Which country has won the most gold medals?",
        "I can't sleep at night. Any tips?", "What does a mortgage broker do?",
        "Is a tomato a fruit or a vegetable?", "Explain blockchain in simple words",
        "who wrote hamlet", "Please proofread this paragraph for me.",
        "What are the symptoms of the flu?", "How do I tie a tie?",
        "Give me directions to the airport.", "Was Napoleon really that short?",
        "What's the GDP of Norway?", "how old is the universe", "Name a famous jazz singer.",
        "Should I learn Spanish or Mandarin first?",
    ],
    "French": [
        "À quelle distance se trouve le Soleil ?", "Mon chien peut-il manger du raisin ?",
        "Comment nouer une cravate ?", "écris un discours pour le mariage de mon frère",
        "Quels sont les symptômes de la grippe ?",
    ],
    "Spanish": [
        "¿A qué distancia está el Sol?", "¿Mi perro puede comer uvas?",
        "¿Cómo se anuda una corbata?", "escribe un discurso para la boda de mi hermano",
        "¿Cuáles son los síntomas de la gripe?",
    ],
    "German": [
        "Wie weit ist die Sonne entfernt?", "Darf mein Hund Trauben fressen?",
        "Wie bindet man eine Krawatte?", "verfasse eine Rede zur Hochzeit meines Bruders",
        "Woran erkenne ich eine Grippe?",
    ],
    "Italian": [
        "Quanto dista il Sole?", "Il mio cane può mangiare l'uva?",
        "Come si annoda una cravatta?", "prepara un discorso per il matrimonio di mio fratello",
        "Quali sono i sintomi dell'influenza?",
    ],
    "Russian": [
        "Как далеко до Солнца?", "Можно ли собаке виноград?", "Как завязать галстук?",
        "составь речь на свадьбу брата", "Какие симптомы у гриппа?",
    ],
    "Greek": [
        "Πόσο μακριά είναι ο ήλιος;", "Μπορεί ο σκύλος μου να φάει σταφύλια;",
        "Πώς δένεται η γραβάτα;", "ετοίμασε έναν λόγο για τον γάμο του αδερφού μου",
        "Ποια είναι τα συμπτώματα της γρίπης;",
    ],
    "Turkish": [
        "Güneş ne kadar uzakta?", "Köpeğim üzüm yiyebilir mi?", "Kravat nasıl bağlanır?",
        "kardeşimin düğünü için bir konuşma hazırla", "Gribin belirtileri nelerdir?",
    ],
    "Japanese": [
        "太陽までの距離はどれくらいですか。", "犬にぶどうを食べさせてもいいですか。",
        "ネクタイの結び方は？", "兄の結婚式のスピーチを考えて",
        "インフルエンザの症状を知りたいです。",
    ],
    "Chinese": [
        "太阳离我们有多远？", "狗可以吃葡萄吗？", "领带怎么打？", "帮我哥哥的婚礼写一篇讲话",
        "流感有哪些症状？",
    ],
    "Korean": [
        "태양까지 거리가 얼마나 되나요?", "강아지가 포도를 먹어도 되나요?", "넥타이 매는 방법은?",
        "형 결혼식 축사를 만들어 줘", "독감 증상에는 무엇이 있나요?",
    ],
    "Arabic": [
        "كم تبعد الشمس عن الأرض؟", "هل يستطيع كلبي أكل العنب؟", "كيف تربط ربطة العنق؟",
        "جهز خطابا لزفاف أخي", "ما أعراض الإنفلونزا؟",
    ],
    "Hindi": [
        "सूरज कितनी दूर है?", "क्या मेरा कुत्ता अंगूर खा सकता है?", "टाई कैसे बाँधते हैं?",
        "मेरे भाई की शादी के लिए भाषण तैयार करो", "फ़्लू के लक्षण क्या होते हैं?",
    ],
    "Portuguese": [
        "A que distância fica o Sol?", "Meu cachorro pode comer uva?",
        "Como dar nó em gravata?", "faça um discurso para o casamento do meu irmão",
        "Quais são os sintomas da gripe?",
    ],
    "Dutch": [
        "Hoe ver staat de zon van ons af?", "Mag mijn hond druiven eten?",
        "Hoe strik je een stropdas?", "maak een toespraak voor de bruiloft van mijn broer",
        "Wat zijn de verschijnselen van griep?",
    ],
    "Polish": [
        "Jak daleko jest Słońce?", "Czy mój pies może jeść winogrona?",
        "Jak zawiązać krawat?", "przygotuj przemówienie na ślub mojego brata",
        "Jakie są objawy grypy?",
    ],
    "Swedish": [
        "Hur långt bort är solen?", "Får min hund äta vindruvor?",
        "Hur knyter man en slips?", "gör ett tal till min brors bröllop",
        "Vilka är symptomen på influensa?",
    ],
    "Finnish": [
        "Kuinka kaukana aurinko on?", "Saako koirani syödä viinirypäleitä?",
        "Miten kravatti solmitaan?", "laadi puhe veljeni häihin", "Mitkä ovat flunssan oireet?",
    ],
    "Indonesian": [
        "Seberapa jauh matahari dari bumi?", "Bolehkah anjing saya makan anggur?",
        "Bagaimana mengikat dasi?", "buatkan pidato untuk pernikahan kakak saya",
        "Apa saja gejala flu?",
    ],
    "Ukrainian": [
        "Як далеко до Сонця?", "Чи можна собаці виноград?", "Як зав'язати краватку?",
        "склади промову на весілля брата", "Які симптоми грипу?",
    ],
}  # fmt: skip
LATER_KINDS = {
    "noise": [
        "kjsdf ksjdf lkj", "uiuiuiuiui", "qazwsxedc", "fghfghfgh", "m,.m,.m,.", "poiuy trewq",
        "blrghh", "zzxzzxzz", "6t7y8u9i", "vvvv bbbb nnnn", "$%$%$%", "dkdkdkdk slsl", "wertzui",
        "jhgf jhgf", "ttgttg", "xcvb nmxc", "hjkl;'", "oooops pppp", "lskdjf", "&&&& ||||",
    ],
    "article": [
        "The museum will reopen in May after two years of work. Visitors can see a new wing with "
        "paintings from the eighteenth century.",
        "A storm swept across the islands last night. Power was lost in many villages and the "
        "ferries did not run.",
        "To change a tyre, first loosen the nuts. Then lift the car with the jack, take the wheel "
        "off and put the spare one on.",
        "She closed the door quietly and walked down to the shore. Nobody had followed her. The "
        "letter was still in her pocket.",
        "Researchers asked two thousand adults how they sleep. One in three said that they wake up "
        "tired at least four times a week.",
        "The bank raised its interest rate by a quarter of a point, citing strong wages and rising "
        "rents.",
        "Our hotel lies five minutes from the beach. All rooms have a balcony, and breakfast is "
        "served until eleven.",
        "Whales are mammals. They breathe air, give birth to live young and feed them with milk.",
        "Minutes of the meeting: The chair welcomed everybody. The accounts were approved. The "
        "next meeting takes place in March.",
        "Shorten this text: The castle was built in 1240 by a duke whose name is lost. It burned "
        "down twice and was rebuilt both times.",
    ],
    "code": [
        "const app = express();\napp.listen(3000);",
        "DELETE FROM orders WHERE id = 7;",
        "<a href=\"index.html\">home</a>",
        "try:\n    open('x')\nexcept OSError:\n    pass",
        "cargo build --release",
        "panic: runtime error: index out of range [3] with length 3",
        "double mean(const double* v, int n);",
        ".menu > li { color: red; }",
        "export PATH=$PATH:/usr/local/bin",
        "Refactor this:\nif a == True:\n    return True",
    ],
    "nearly nothing": [
        "...?", ".!", "kk", "Hm.", "err", "q", "j", "🤔", "🙏🏼", ":/", "yup", "nooo", "i", "''",
        "[]",
        "--", "o", "mhm", "ehm", "?.",
    ],
}  # fmt: skip

WHO = [
    "Could you tell me your name?", "who am I speaking with?", "What do people call you?",
    "hey, who are you?", "Please introduce yourself to the class.", "What are you called?",
    "so... what are you?", "WHO EXACTLY ARE YOU", "and who might you be?", "whoo are you",
    "I'd like to know your name.", "Which language model is this?", "what's ur name",
    "Are you a Gemma model?", "Tell the students who you are.", "Say your name.",
    "have you got a name?", "Who would you be?", "your name please", "What is it that you are?",
]  # fmt: skip
HELLO = [
    "Hello, hello, hello!", "hey hey", "Hi, little Gemma!", "hello, little one", "Good day to you!",
    "hellooo", "Hi over there!!", "hey :-)", "HELLO MACHINE", "hi, are you there?",
    "Hello there, friend", "helo", "Hey, model.", "hi and hello", "oh hi", "Greetings to you!",
    "hello hello hi", "heya",
]  # fmt: skip
CAN = [
    "So what can you do?", "what are you able to do?", "Tell me what you know.",
    "Show me your skills.", "what kind of things can I ask?", "How could you help me?",
    "help me please!", "What can I use you for?", "what should I ask?", "List what you can do.",
    "Which questions do you understand?", "What did you learn?",
]  # fmt: skip


def prompts(later: bool = False) -> dict[str, list[tuple[str, str]]]:
    """kind -> (prompt, the language of the answer)."""
    other = {"noise": NOISE, "article": ARTICLES, "code": CODE, "nearly nothing": NEARLY_NOTHING}
    questions, other = (LATER, LATER_KINDS) if later else (ASKED, other)
    return {
        "question": [(text, language) for language, texts in questions.items() for text in texts],
        **{kind: [(text, "English") for text in texts] for kind, texts in other.items()},
    }
