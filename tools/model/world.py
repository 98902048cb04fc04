# SPDX-License-Identifier: Apache-2.0
"""The small world that the bundled model knows: its words and its facts. Written for this project."""


def words(text):
    return text.split()


def pairs(text):
    """"a:b c:d" -> [("a", "b"), ...]; an underscore stands for a space."""
    return [tuple(part.replace("_", " ") for part in item.split(":")) for item in text.split()]


NAMES = words("""Anna Ben Clara David Emma Felix Greta Hugo Ida Jack Kate Leo Mia Noah Olive Paul Rosa Sam Tina Victor
Wendy Alice Bruno Cora Daniel Ella Frank Grace Henry Ivy Jonas Kim Lucy Max Nora Oscar Penny Ruth Simon Tara Uma Vera
Walter Zoe Amy Bill Carl Dora Eric Fiona George Helen Ivan Julia Karl Linda Mark Nina Otto Peter Rita Stella Tom Lily
Martin Sara Toby Eva Luis Maria Ali Yuki Omar Lena Finn Marta Theo Pia Arthur Bella Charlie Daisy Edgar Flora Gus Holly
Jasper Kira Liam Molly Ned Polly Robin Sophie Tess Will Aron Mina Ravi Sunny Ada Linus Ken Dennis Mary John Robert Jane""")

# name: sound, legs, home, food, colour, young, size (1 smallest), cover, class, what it does well
ANIMALS = {}
for _line in """
cat|meow|4|in a house|fish and meat|black, white, grey or orange|kitten|3|fur|mammal|climb and catch mice
dog|woof|4|with people|meat and bones|brown, black or white|puppy|4|fur|mammal|run and guard the house
cow|moo|4|on a farm|grass|brown, black or white|calf|8|hair|mammal|give milk
horse|neigh|4|on a farm|grass and hay|brown, black or white|foal|8|hair|mammal|run fast and carry people
sheep|baa|4|on a farm|grass|white|lamb|6|wool|mammal|give us wool
goat|meh|4|on a farm|grass and leaves|white or brown|kid|5|hair|mammal|climb on rocks
pig|oink|4|on a farm|almost everything|pink|piglet|6|skin|mammal|find food with its nose
donkey|hee-haw|4|on a farm|grass and hay|grey|foal|7|hair|mammal|carry heavy things
duck|quack|2|near a pond|plants and small insects|brown, green or white|duckling|3|feathers|bird|swim and fly
hen|cluck|2|on a farm|corn and seeds|brown or white|chick|3|feathers|bird|lay eggs
rooster|cock-a-doodle-doo|2|on a farm|corn and seeds|red and brown|chick|3|feathers|bird|wake everybody up
goose|honk|2|near a pond|grass|white or grey|gosling|4|feathers|bird|swim and fly
owl|hoo-hoo|2|in the forest|mice|brown|owlet|3|feathers|bird|see at night
parrot|squawk|2|in warm forests|seeds and fruit|green and red|chick|3|feathers|bird|copy words
crow|caw|2|in fields and towns|almost everything|black|chick|3|feathers|bird|solve puzzles
penguin|honk|2|in cold places by the sea|fish|black and white|chick|4|feathers|bird|swim and dive
frog|ribbit|4|near a pond|flies|green|tadpole|2|skin|amphibian|jump far
fish|no sound|0|in water|small plants and worms|silver|fry|2|scales|fish|swim
shark|no sound|0|in the sea|fish|grey|pup|8|skin|fish|swim fast
bee|buzz|6|in a hive|nectar from flowers|yellow and black|larva|1|tiny hairs|insect|make honey
ant|no sound|6|in an ant hill|seeds and crumbs|black or red|larva|1|a hard shell|insect|carry heavy crumbs
butterfly|no sound|6|in gardens|nectar from flowers|many bright colours|caterpillar|1|tiny scales|insect|fly from flower to flower
spider|no sound|8|in a web|flies|black or brown|spiderling|1|tiny hairs|spider|spin webs
mouse|squeak|4|in a small hole|cheese and seeds|grey or brown|pup|2|fur|mammal|hide in small holes
rabbit|squeak|4|in a burrow|grass and carrots|brown, grey or white|kit|3|fur|mammal|hop and dig
squirrel|chirp|4|in trees|nuts|red or brown|kit|2|fur|mammal|climb trees
hedgehog|snuffle|4|in gardens|insects and worms|brown|hoglet|2|spines|mammal|roll into a ball
fox|yip|4|in the forest|mice and berries|red|cub|4|fur|mammal|move quietly
wolf|howl|4|in the forest|meat|grey|pup|6|fur|mammal|hunt in a pack
bear|growl|4|in the forest|fish, berries and honey|brown|cub|8|fur|mammal|climb and catch fish
deer|bellow|4|in the forest|grass and leaves|brown|fawn|7|hair|mammal|run and jump
lion|roar|4|in warm, dry lands|meat|yellow|cub|8|fur|mammal|roar loudly
tiger|roar|4|in warm forests|meat|orange with black stripes|cub|8|fur|mammal|swim and hunt
monkey|chatter|4|in warm forests|bananas and nuts|brown|baby monkey|5|fur|mammal|climb trees
elephant|trumpet|4|in warm lands|grass and leaves|grey|calf|10|thick skin|mammal|lift heavy things with its trunk
giraffe|hum|4|in warm, dry lands|leaves from tall trees|yellow with brown spots|calf|9|hair|mammal|reach high leaves
zebra|bark|4|in warm, dry lands|grass|black and white|foal|8|hair|mammal|run fast
camel|grunt|4|in the desert|dry plants|brown|calf|8|hair|mammal|walk far without water
kangaroo|cough|4|in Australia|grass|brown|joey|7|fur|mammal|jump far
whale|sing|0|in the sea|tiny sea animals|blue or grey|calf|11|skin|mammal|dive deep
dolphin|click|0|in the sea|fish|grey|calf|7|skin|mammal|jump out of the water
snake|hiss|0|in grass and under rocks|mice and eggs|green or brown|snakelet|4|scales|reptile|move without legs
turtle|no sound|4|in the sea or in ponds|plants|green|hatchling|4|a hard shell|reptile|hide in its shell
crocodile|growl|4|in warm rivers|meat and fish|green|hatchling|8|scales|reptile|swim and wait quietly
snail|no sound|0|in gardens|leaves|brown|baby snail|1|a shell|mollusc|carry its house on its back
""".strip().split("\n"):
    _f = _line.split("|")
    ANIMALS[_f[0]] = dict(sound=_f[1], legs=int(_f[2]), home=_f[3], food=_f[4], colour=_f[5], young=_f[6],
                          size=int(_f[7]), cover=_f[8], kind=_f[9], skill=_f[10])

FLIERS = words("duck goose owl parrot crow bee butterfly")
SWIMMERS = words("duck goose penguin frog fish shark whale dolphin turtle crocodile")

IRREGULAR = dict(pairs("""mouse:mice goose:geese sheep:sheep fish:fish deer:deer wolf:wolves child:children man:men
woman:women foot:feet tooth:teeth leaf:leaves knife:knives loaf:loaves person:people baby:babies city:cities
cherry:cherries berry:berries butterfly:butterflies box:boxes fox:foxes bus:buses glass:glasses brush:brushes
watch:watches peach:peaches dress:dresses potato:potatoes tomato:tomatoes monkey:monkeys strawberry:strawberries
shelf:shelves half:halves puppy:puppies story:stories family:families dish:dishes wish:wishes sandwich:sandwiches
torch:torches couch:couches bench:benches beach:beaches library:libraries bakery:bakeries penny:pennies lady:ladies
calf:calves thief:thieves ox:oxen spy:spies sky:skies party:parties blueberry:blueberries raspberry:raspberries"""))

COLOURS = words("red blue green yellow orange purple pink brown black white grey")
COLOUR_OF = dict(pairs("""the_sky:blue grass:green snow:white a_banana:yellow a_lemon:yellow the_sun:yellow
a_strawberry:red a_cherry:red a_tomato:red blood:red a_carrot:orange an_orange:orange a_pumpkin:orange coal:black
the_night:black a_crow:black milk:white a_cloud:white salt:white chocolate:brown coffee:brown wood:brown bread:brown
a_leaf:green a_frog:green a_cucumber:green a_pea:green lettuce:green a_pig:pink an_elephant:grey a_mouse:grey a_stone:grey
a_plum:purple the_sea:blue a_blueberry:blue a_lime:green a_polar_bear:white cheese:yellow sand:yellow a_fire_engine:red
a_swan:white a_flamingo:pink a_dolphin:grey honey:yellow corn:yellow ketchup:red a_raspberry:red spinach:green
an_aubergine:purple a_grape:purple tea:brown a_rose:red ash:grey ink:blue flour:white sugar:white"""))
MIXES = {("red", "yellow"): "orange", ("blue", "yellow"): "green", ("red", "blue"): "purple", ("red", "white"): "pink",
         ("black", "white"): "grey", ("red", "green"): "brown"}

OPPOSITES = pairs("""hot:cold big:small tall:short long:short fast:slow old:young new:old good:bad happy:sad light:dark
heavy:light full:empty open:closed wet:dry clean:dirty hard:soft loud:quiet early:late high:low near:far strong:weak
thick:thin wide:narrow rich:poor day:night up:down left:right in:out on:off front:back inside:outside above:below
over:under first:last begin:end start:stop come:go give:take push:pull buy:sell win:lose find:lose laugh:cry love:hate
remember:forget arrive:leave wake_up:fall_asleep sit:stand question:answer summer:winter friend:enemy yes:no true:false
always:never everything:nothing many:few more:less before:after right:wrong easy:difficult sweet:sour smooth:rough
brave:afraid polite:rude deep:shallow sharp:blunt alive:dead asleep:awake cheap:expensive safe:dangerous
beautiful:ugly kind:cruel lazy:busy calm:wild straight:crooked north:south east:west top:bottom sunrise:sunset
city:country boy:girl man:woman brother:sister king:queen mother:father uncle:aunt remember:forget lock:unlock
tie:untie appear:disappear possible:impossible lucky:unlucky honest:dishonest patient:impatient""")

DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
SEASONS = words("spring summer autumn winter")
MONTH_SEASON = dict(zip(MONTHS, words("winter winter spring spring spring summer summer summer autumn autumn autumn winter")))
MONTH_DAYS = dict(zip(MONTHS, (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)))
NUMBERS = words("""zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty""")
ORDINALS = words("first second third fourth fifth sixth seventh eighth ninth tenth")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

CATEGORIES = {
    "fruit": words("apple banana orange pear plum cherry strawberry grape lemon peach mango melon raspberry blueberry lime"),
    "vegetable": words("carrot potato onion cucumber pea bean cabbage leek pumpkin radish beetroot turnip"),
    "animal": list(ANIMALS),
    "colour": COLOURS,
    "drink": words("water milk tea coffee juice lemonade cocoa"),
    "toy": words("ball doll kite puzzle robot teddy drum yo-yo"),
    "tool": words("hammer saw drill spade rake ladder broom screwdriver"),
    "piece of clothing": words("shirt coat hat scarf sock shoe skirt dress jacket glove jumper"),
    "piece of furniture": words("table chair bed sofa desk shelf cupboard bench stool"),
    "vehicle": words("car bus train bicycle boat ship plane lorry tram tractor"),
    "musical instrument": words("piano guitar violin flute trumpet drum harp"),
    "flower": words("rose tulip daisy lily sunflower violet"),
    "tree": words("oak pine birch willow maple beech"),
    "job": words("teacher doctor baker farmer cook nurse pilot gardener painter singer"),
    "part of the body": words("hand foot head arm leg nose ear eye mouth knee shoulder back finger toe"),
    "season": SEASONS, "day of the week": DAYS, "month": MONTHS,
    "shape": words("circle square triangle rectangle star oval"),
    "room": words("kitchen bedroom bathroom hall cellar attic"),
    "sport": words("football tennis swimming running cycling skiing basketball"),
    "food": words("bread cheese soup rice pasta cake salad pizza porridge egg"),
    "number": NUMBERS[1:], "bird": words("owl duck hen goose parrot crow penguin robin swan eagle"),
    "insect": words("bee ant butterfly fly beetle ladybird"),
    "farm animal": words("cow horse sheep goat pig hen duck donkey goose"),
    "wild animal": words("lion tiger bear wolf fox elephant giraffe zebra monkey deer"),
    "family member": words("mother father sister brother grandmother grandfather aunt uncle cousin"),
    "metal": words("iron gold silver copper tin"), "country": words("France Italy Spain Japan Egypt Brazil Canada India"),
}
PLURAL_OF_CATEGORY = {"fruit": "fruits", "piece of clothing": "pieces of clothing", "piece of furniture": "pieces of furniture",
    "part of the body": "parts of the body", "day of the week": "days of the week", "family member": "family members",
    "country": "countries", "food": "foods"}

USES = dict(pairs("""knife:cut_bread fork:eat spoon:eat_soup cup:drink_tea pen:write pencil:draw brush:paint
key:open_a_door umbrella:stay_dry_in_the_rain broom:sweep_the_floor hammer:hit_nails saw:cut_wood spade:dig_a_hole
ladder:reach_high_places needle:sew lamp:make_light clock:tell_the_time bed:sleep chair:sit oven:bake_bread
fridge:keep_food_cold soap:wash_your_hands towel:dry_yourself toothbrush:clean_your_teeth comb:tidy_your_hair
scissors:cut_paper glue:stick_things_together book:read map:find_the_way boat:cross_the_water bicycle:ride_to_school
bus:travel_through_the_town plane:fly_to_far_places telephone:talk_to_people_far_away camera:take_pictures mirror:see_yourself candle:make_light
blanket:keep_warm pillow:rest_your_head bag:carry_things bucket:carry_water rope:tie_things bell:make_a_sound kettle:boil_water pan:fry_eggs
basket:carry_apples ruler:measure_a_line calendar:look_up_the_date torch:see_in_the_dark tent:sleep_outside kite:play_in_the_wind
watering_can:water_the_flowers piano:make_music thermometer:measure_how_warm_it_is telescope:look_at_the_stars"""))

JOBS = dict(pairs("""baker:bakes_bread teacher:teaches_children doctor:helps_sick_people farmer:grows_food_and_looks_after_animals
cook:makes_meals nurse:looks_after_sick_people pilot:flies_a_plane gardener:looks_after_plants painter:paints_pictures
singer:sings_songs driver:drives_a_bus sailor:works_on_a_ship writer:writes_books builder:builds_houses
dentist:looks_after_teeth firefighter:puts_out_fires postman:brings_letters hairdresser:cuts_hair tailor:makes_clothes
carpenter:makes_things_from_wood fisherman:catches_fish librarian:looks_after_books vet:helps_sick_animals
mechanic:repairs_cars musician:makes_music shopkeeper:sells_things judge:decides_what_is_fair waiter:brings_food_to_the_table
shepherd:looks_after_sheep miner:digs_under_the_ground plumber:repairs_water_pipes astronaut:flies_into_space beekeeper:looks_after_bees"""))

BUY_AT = dict(pairs("""bread:bakery cake:bakery rolls:bakery books:bookshop medicine:pharmacy stamps:post_office flowers:flower_shop
shoes:shoe_shop apples:market carrots:market toys:toy_shop meat:butcher's_shop milk:supermarket cheese:supermarket
rice:supermarket tickets:station pencils:stationery_shop glasses:optician coats:clothes_shop hats:clothes_shop"""))
PLACE_FOR = dict(pairs("""borrow_books:library learn_things:school see_animals_from_far_away:zoo swim:swimming_pool catch_a_train:station
see_a_doctor:hospital watch_a_film:cinema catch_a_plane:airport post_a_letter:post_office play_on_a_swing:playground
see_old_things:museum get_money:bank build_a_sandcastle:beach cook_a_meal:kitchen have_a_bath:bathroom sleep:bedroom
see_a_play:theatre eat_a_meal_out:restaurant grow_vegetables:garden feed_the_ducks:park"""))

SENSES = dict(pairs("see:eyes hear:ears smell:nose taste:tongue touch:fingers walk:feet think:brain chew:teeth breathe:lungs hold_things:hands bend_your_arm:elbow bend_your_leg:knee"))

CAPITALS = dict(pairs("""France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Austria:Vienna Poland:Warsaw
England:London Ireland:Dublin Norway:Oslo Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Greece:Athens
Japan:Tokyo China:Beijing India:New_Delhi Egypt:Cairo Russia:Moscow Canada:Ottawa Hungary:Budapest Belgium:Brussels
Kenya:Nairobi Peru:Lima Cuba:Havana Turkey:Ankara Argentina:Buenos_Aires Mexico:Mexico_City Thailand:Bangkok Iceland:Reykjavik"""))

PAST = dict(pairs("""go:went eat:ate see:saw run:ran come:came take:took give:gave make:made find:found say:said think:thought
write:wrote read:read sing:sang swim:swam drink:drank buy:bought bring:brought sleep:slept sit:sat stand:stood fly:flew
fall:fell get:got know:knew grow:grew begin:began break:broke speak:spoke catch:caught teach:taught keep:kept leave:left
lose:lost meet:met pay:paid ride:rode sell:sold send:sent tell:told wear:wore win:won walk:walked play:played look:looked
help:helped jump:jumped laugh:laughed open:opened call:called wash:washed cook:cooked paint:painted love:loved dance:danced
hide:hid draw:drew feel:felt hear:heard build:built be:was have:had do:did throw:threw sweep:swept forget:forgot"""))

RHYMES = pairs("""cat:hat dog:frog house:mouse tree:bee bear:pear star:car moon:spoon rain:train cake:lake ball:wall
king:ring boat:goat bed:red hen:pen sun:fun fox:box day:play night:light snow:go book:cook rose:nose fish:dish
sand:hand bell:shell nine:line ten:men blue:shoe green:queen coat:boat sky:fly bread:head hill:mill door:floor two:blue
cheese:bees duck:truck pig:big bat:mat feet:sweet stone:bone well:bell wing:sing pan:man chair:hair four:door""")

COMPARATIVES = dict(pairs("""big:bigger small:smaller tall:taller fast:faster slow:slower old:older young:younger hot:hotter cold:colder
happy:happier strong:stronger long:longer short:shorter heavy:heavier light:lighter good:better bad:worse nice:nicer large:larger
easy:easier early:earlier late:later high:higher low:lower deep:deeper warm:warmer soft:softer quiet:quieter loud:louder rich:richer thin:thinner"""))

KINSHIP = dict(pairs("""mother's_mother:grandmother father's_mother:grandmother mother's_father:grandfather father's_father:grandfather
mother's_sister:aunt father's_sister:aunt mother's_brother:uncle father's_brother:uncle uncle's_son:cousin
aunt's_daughter:cousin brother's_son:nephew sister's_son:nephew brother's_daughter:niece sister's_daughter:niece
son's_daughter:granddaughter son's_son:grandson daughter's_son:grandson daughter's_daughter:granddaughter"""))

# Question forms | answer. The forms are told apart by ";".
FACTS = [tuple(line.split("|")) for line in """
how many days are in a week;how many days does a week have;how many days are there in a week|There are seven days in a week.|seven
how many months are in a year;how many months does a year have;how many months are there in a year|There are twelve months in a year.|twelve
how many hours are in a day;how many hours does a day have;how many hours are there in a day|There are twenty-four hours in a day.|twenty-four
how many minutes are in an hour;how many minutes does an hour have;how many minutes are there in an hour|There are sixty minutes in an hour.|sixty
how many seconds are in a minute;how many seconds does a minute have;how many seconds are there in a minute|There are sixty seconds in a minute.|sixty
how many days are in a year;how many days does a year have;how many days are there in a year|There are 365 days in a year, and 366 in a leap year.|365
how many seasons are there;how many seasons does a year have;how many seasons are in a year|There are four seasons: spring, summer, autumn and winter.|four
what are the seasons;name the four seasons;list the seasons;what are the four seasons|The four seasons are spring, summer, autumn and winter.|autumn
what are the days of the week;name the days of the week;list the days of the week;what are the seven days|The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.|Monday, Tuesday
what are the months of the year;name the months of the year;list the months;name all months|The months are January, February, March, April, May, June, July, August, September, October, November and December.|February, March
how many letters are in the alphabet;how many letters does the alphabet have|The English alphabet has twenty-six letters.|twenty-six
how many sides does a triangle have;how many corners does a triangle have|A triangle has three sides and three corners.|three
how many sides does a square have;how many corners does a square have;how many sides does a rectangle have|It has four sides and four corners.|four
how many fingers do people have;how many fingers do you have on two hands;how many fingers does a person have|People have ten fingers, five on each hand.|ten
how many eyes do people have;how many eyes does a person have|A person has two eyes.|two
how many wheels does a car have;how many wheels are on a car|A car has four wheels.|four
how many wheels does a bicycle have;how many wheels are on a bike;how many wheels does a bike have|A bicycle has two wheels.|two
how many wheels does a tricycle have|A tricycle has three wheels.|three
where does the sun rise;in which direction does the sun rise|The sun rises in the east.|east
where does the sun set;in which direction does the sun set|The sun sets in the west.|west
what is the sun;tell me about the sun;is the sun a star|The sun is a star. It gives us light and warmth.|star
what is the moon;tell me about the moon;where is the moon|The moon is a ball of rock that goes around the earth. We see it at night.|earth
what is the earth;tell me about the earth;which planet do we live on|The earth is the planet that we live on. It goes around the sun.|planet
what is a star;what are stars;tell me about the stars|Stars are big, hot balls of gas very far away. We can see them at night.|night
what is rain;what is rain made of|Rain is water that falls from the clouds in small drops.|water
what is snow;what is snow made of;tell me about snow|Snow is frozen water. It falls from the clouds in winter and it is white and cold.|frozen
what is ice;what is ice made of|Ice is frozen water.|frozen water
what is a cloud;what are clouds made of;what is a cloud made of|A cloud is made of many tiny drops of water.|water
what is a rainbow;when can i see a rainbow;when do you see a rainbow;tell me about rainbows|A rainbow is a bow of many colours. You can see it when the sun shines while it rains.|colours
what is wind;what is the wind|Wind is air that moves.|air
why is the sky blue|The air scatters blue light from the sun more than other colours, so the sky looks blue.|light
what happens when water freezes;what happens to water when it is very cold;what does water become when it freezes|When water freezes, it becomes ice.|ice
what happens when ice melts;what happens to ice when it is warm;what does ice become when it melts|When ice melts, it becomes water.|water
what happens when water boils;what does water become when it boils|When water boils, it becomes steam.|steam
where does milk come from;who gives us milk;which animal gives us milk|Milk comes from cows.|cow
where does honey come from;who makes honey;which animal makes honey|Bees make honey.|bees
where do eggs come from;who lays eggs for us;which animal lays eggs on a farm|Eggs come from hens.|hens
where does wool come from;which animal gives us wool;who gives us wool|Wool comes from sheep.|sheep
where does bread come from;what is bread made of;what is bread made from|Bread is made of flour, water, salt and yeast.|flour
what is cheese made of;where does cheese come from;what is cheese made from|Cheese is made of milk.|milk
what is butter made of;what is butter made from;where does butter come from|Butter is made of cream from milk.|milk
what is chocolate made of;what is chocolate made from|Chocolate is made of cocoa, sugar and milk.|cocoa
what is paper made of;what is paper made from;where does paper come from|Paper is made of wood.|wood
what is glass made of;what is glass made from|Glass is made of sand.|sand
what is a window made of;what are windows made of|A window is made of glass.|glass
what do plants need;what do plants need to grow;what does a flower need|Plants need water, light and soil to grow.|water
what do we breathe;what do people breathe|We breathe air.|air
what do bees make;what does a bee make|Bees make honey.|honey
what is the biggest animal;what is the largest animal;which animal is the biggest|The blue whale is the biggest animal.|whale
what is the tallest animal;which animal is the tallest|The giraffe is the tallest animal.|giraffe
what is the fastest animal on land;which animal runs fastest|The cheetah is the fastest animal on land.|cheetah
who is the king of the animals;which animal is called the king of animals|The lion is called the king of the animals.|lion
what do you do when you are tired;what should you do when you are tired|When you are tired, you should rest or go to sleep.|sleep
what do you do when you are hungry;what should you do when you are hungry|When you are hungry, you should eat something.|eat
what do you do when you are thirsty;what should you do when you are thirsty|When you are thirsty, you should drink some water.|drink
what do you wear in winter;what should i wear when it is cold;what do you wear when it is cold|In the cold, wear a warm coat, a hat, a scarf and gloves.|coat
what do you wear in summer;what should i wear when it is hot;what do you wear when it is hot|In the heat, wear light clothes and a sun hat.|light
what do you wear in the rain;what should i take when it rains;what do i need when it rains|When it rains, take an umbrella and wear boots.|umbrella
what can you do in the snow;what can i do when it snows;what do children do in the snow|In the snow you can build a snowman, throw snowballs and ride a sledge.|snow
what can you do at the beach;what can i do at the beach;what do people do at the beach|At the beach you can swim, lie in the sun and build a sandcastle.|swim
what can you do in the park;what can i do in the park|In the park you can walk, play ball and feed the ducks.|park
when do you eat breakfast;when do people eat breakfast|People eat breakfast in the morning.|morning
when do you eat lunch;when do people eat lunch|People eat lunch at noon.|noon
when do you eat dinner;when do people eat dinner|People eat dinner in the evening.|evening
what do people eat for breakfast;what can i eat for breakfast;what is a good breakfast|For breakfast you can eat bread with jam, an egg or porridge with fruit.|bread
what do people eat for lunch;what can i eat for lunch;what is a good lunch|For lunch you can eat soup with bread, a salad or a sandwich.|soup
what do people eat for dinner;what can i eat for dinner;what should i cook today;what is a good dinner|For dinner you can eat pasta with tomatoes, rice with vegetables or potatoes with fish.|pasta
what colour is a traffic light when you must stop;when must you stop at a traffic light|You must stop when the traffic light is red.|red
when may you go at a traffic light;what colour means go|You may go when the traffic light is green.|green
what are the colours of the rainbow;which colours does a rainbow have;name the colours of the rainbow|The colours of the rainbow are red, orange, yellow, green, blue, indigo and violet.|orange, yellow
what is half of ten;how much is half of ten|Half of ten is five.|five
what is a dozen;how many is a dozen;how many eggs are in a dozen|A dozen is twelve.|twelve
what is a friend;what does a good friend do;what is friendship|A friend is a person who likes you, helps you and listens to you.|friend
what is a family;tell me about families|A family is a group of people who belong together, such as parents, children and grandparents.|parents
what is a forest;what is a wood;tell me about forests|A forest is a place with many trees. Many animals live there.|trees
what is a desert;tell me about deserts|A desert is a very dry place with a lot of sand and very little rain.|dry
what is a river;tell me about rivers|A river is a long stream of water that flows to the sea.|water
what is a mountain;tell me about mountains|A mountain is a very high hill. It is often cold at the top.|high
what is the sea;what is an ocean;tell me about the sea|The sea is a very big body of salt water. Fish and whales live in it.|water
what is an island;what is an island surrounded by|An island is land with water all around it.|water
what is a farm;tell me about farms|A farm is a place where people grow food and keep animals.|animals
what is a school;tell me about school|A school is a place where children learn to read, to write and to count.|learn
what is a library;tell me about libraries|A library is a place where you can read and borrow books.|books
what is summer like;what is the weather like in summer;tell me about summer|In summer it is warm and sunny, and the days are long.|warm
what is winter like;what is the weather like in winter;tell me about winter|In winter it is cold, and sometimes it snows. The days are short.|cold
what is spring like;what is the weather like in spring;what happens in spring;tell me about spring|In spring it gets warmer, the flowers bloom and the birds sing.|flowers
what is autumn like;what is the weather like in autumn;what happens in autumn;tell me about autumn|In autumn the leaves turn red and yellow and fall from the trees.|leaves
which season comes after winter;what comes after winter|Spring comes after winter.|spring
which season comes after spring;what comes after spring|Summer comes after spring.|summer
which season comes after summer;what comes after summer|Autumn comes after summer.|autumn
which season comes after autumn;what comes after autumn|Winter comes after autumn.|winter
how many legs do people have;how many legs does a person have|A person has two legs.|two
what is the capital letter for;when do you use a capital letter|A sentence and a name begin with a capital letter.|sentence
what is water;tell me about water|Water is a clear liquid. People, animals and plants need it to live.|liquid
what is fire;tell me about fire|Fire is hot and gives light. Be careful, because it can burn you.|hot
what is music;tell me about music|Music is made of sounds that are nice to hear. People sing or play instruments.|sounds
what is love|Love is a warm feeling for somebody who is dear to you.|feeling
what is a dream;what are dreams|A dream is a story that you see in your mind while you sleep.|sleep
what is a robot;tell me about robots|A robot is a machine that can move and do work by itself.|machine
what is a computer;tell me about computers|A computer is a machine that works with numbers, words and pictures.|machine
what is a book;tell me about books|A book has many pages with words and pictures. You can read it.|read
what is a birthday;tell me about birthdays|A birthday is the day on which you were born. People often celebrate it with a cake.|born
""".strip().split("\n")]

JOKES = """Why did the hen cross the road? Because there was corn on the other side!
What did the big clock say to the small clock? You have more time than I do!
Why was the pencil so sad? It had no point!
What do you call a bear in the rain? A wet bear!
Why did the cow go to the concert? She wanted to hear some moo-sic!
What did one wall say to the other wall? I will meet you at the corner!
Why do bees hum? Because they do not know the words!
Why did the snowman look at the carrots? He was choosing a new nose!
What is as big as an elephant but weighs nothing? Its shadow!
Why did the banana go to the doctor? It was not peeling well!""".split("\n")

HOWTO = [tuple(line.split("|")) for line in """
make tea;make a cup of tea;cook tea|First boil some water. Then pour it over the tea in a cup. Wait three minutes and drink it slowly.|water
make a sandwich;make a cheese sandwich|Take two slices of bread. Put some butter and cheese on one slice. Then put the other slice on top.|bread
boil an egg;cook an egg|Put the egg into boiling water. Wait about seven minutes. Then cool it with cold water and peel it.|water
plant a seed;plant a flower;grow a flower|Make a small hole in the soil. Put the seed into it and cover it. Then give it water and light every day.|seed
wash my hands;wash your hands|Make your hands wet. Rub them with soap for twenty seconds. Then rinse them and dry them with a towel.|soap
brush my teeth;brush your teeth;clean my teeth|Put some toothpaste on your brush. Brush all your teeth for two minutes. Then rinse your mouth.|brush
make a snowman;build a snowman|Roll three big balls of snow. Put them on top of each other. Then add a carrot for the nose and stones for the eyes.|snow
draw a house;paint a house|Draw a square. Put a triangle on top for the roof. Then add a door and two windows.|square
draw a cat;paint a cat|Draw a big circle for the head. Add two pointed ears, two eyes, a nose and long whiskers. Then draw the body and a tail.|ears
make a fruit salad;make fruit salad|Wash an apple, a pear and some grapes. Cut them into small pieces. Mix them in a bowl and add some lemon juice.|apple
make pancakes;cook pancakes;bake pancakes|Mix flour, milk and eggs in a bowl. Heat some butter in a pan. Pour in some batter and fry it on both sides.|flour
make soup;cook soup;cook a vegetable soup|Cut some carrots, potatoes and onions. Cook them in water with a little salt for twenty minutes. Taste it before you eat.|carrots
bake bread;make bread|Mix flour, water, salt and yeast. Let the dough rest until it is big. Then bake it in a hot oven.|flour
bake a cake;make a cake|Mix butter, sugar, eggs and flour. Pour the batter into a tin. Then bake it in the oven until it is golden.|sugar
fall asleep;sleep better|Make the room dark and quiet. Put away your telephone. Then breathe slowly and think of something nice.|dark
make a friend;find a friend;make new friends|Smile and say hello. Ask what the other person likes. Then listen well and be kind.|kind
clean my room;tidy my room|Put all your clothes away first. Then put the books on the shelf. At last sweep the floor.|floor
wrap a present;wrap a gift|Put the box in the middle of the paper. Fold the paper around it and stick it with tape. Then add a ribbon.|paper
fly a kite|Wait for a windy day. Hold the string and run against the wind. Then let out the string slowly.|wind
cross the street;cross the road|Stop and look left, right and left again. Listen for cars. When the road is empty, walk across.|left""".strip().split("\n")]

FEELINGS = [tuple(line.split("|")) for line in """
tired;sleepy;exhausted|You should rest a little. A short sleep often helps.;Then have a good rest. Tomorrow you will feel better.
sad;unhappy;lonely|I am sorry that you are sad. Maybe a walk or a talk with a friend will help.;I am sorry to hear that. I hope that you will feel better soon.
happy;so happy;glad|That is wonderful! I am glad to hear it.;How nice! What made you happy?
hungry;very hungry|Then you should eat something. How about some bread and cheese, or an apple?;Have a snack! Soup and bread are good when you are hungry.
thirsty;very thirsty|Then drink a big glass of water.;You should drink something. Water is best.
cold;freezing|Put on a warm jumper and drink some hot tea.;Take a blanket and a cup of hot cocoa.
hot;too hot|Drink some cold water and sit in the shade.;Open a window and drink something cold.
bored;so bored|You could read a book, draw a picture or go outside and play.;How about a story? Ask me to tell you one!
ill;sick;not well|I am sorry to hear that. Rest in bed, drink some tea and see a doctor if it does not get better.;Get well soon! Please rest, and ask a doctor for help.
angry;mad;so angry|Take a deep breath and count to ten. Then talk about it calmly.;I am sorry that you are angry. A walk may help you to calm down.
afraid;scared;frightened|Do not worry. Talk to somebody who is near you. You are not alone.;It is all right to be afraid. Hold somebody's hand and breathe slowly.
excited;very excited|How nice! What are you looking forward to?;That sounds like fun!
lost|Stay calm and ask somebody kind for the way. A map may help, too.
nervous;worried|Breathe slowly. Do one small thing after another. You can do it!""".strip().split("\n")]

# For stories.
TRAITS = words("little kind brave clever curious shy happy quiet funny young gentle cheerful careful hungry lazy old proud lonely patient friendly")
OBJECTS = words("""ball kite book hat drum boat lamp key map basket bell blanket cup coin box ring scarf toy flute stone shell
feather button mirror lantern ribbon whistle teddy puzzle bucket umbrella clock paintbrush letter candle pillow bag""")
PLACES = [p.replace("_", " ") for p in words("""the_garden the_forest the_park the_river the_beach the_market the_hill the_pond the_old_mill the_village the_school
the_library the_kitchen the_meadow the_lake the_playground the_bridge the_barn the_station the_castle the_attic the_bakery""")]
FOODS = [p.replace("_", " ") for p in words("""an_apple a_cake a_sandwich some_bread some_cheese some_soup a_banana a_pear some_honey some_berries a_cookie a_pie some_nuts a_carrot""")]
WEATHER = [p.replace("_", " ") for p in words("""sunny rainy windy cold warm snowy cloudy foggy bright stormy""")]
ADJECTIVES = words("""big small old new red blue green yellow shiny soft heavy golden silver wooden round tiny pretty strange
warm broken bright magic wonderful lovely purple white black grey""")

# For topics that the model must decline.
UNKNOWN_HEADS = words("""economics philosophy chemistry physics algebra politics history geography biology astronomy medicine
law psychology literature architecture engineering geology grammar cryptography statistics calculus geometry theology
inflation democracy capitalism evolution gravity relativity electricity magnetism photosynthesis radiation bacteria
algorithms databases networks compilers kernels firewalls blockchain bitcoin software hardware programming python java linux
windows javascript html encryption internet satellites rockets lasers batteries transistors engines turbines semiconductors
shakespeare napoleon einstein newton mozart beethoven picasso caesar cleopatra darwin plato aristotle columbus galileo
opera ballet jazz poetry novels sculpture cinema theatre football_league olympics chess poker baseball cricket rugby
stocks taxes mortgages insurance pensions contracts marketing accounting logistics unemployment elections parliament
dinosaurs volcanoes earthquakes hurricanes glaciers comets galaxies atoms molecules proteins viruses vaccines hormones
australia antarctica africa siberia greenland mars jupiter saturn venus pluto neptune amazon sahara himalaya
quantum_mechanics machine_learning artificial_intelligence general_relativity nuclear_power climate_change the_stock_market
the_french_revolution the_roman_empire world_war_two the_middle_ages the_periodic_table the_big_bang the_human_genome
the_solar_system string_theory organic_chemistry linear_algebra operating_systems memory_management version_control
the_united_nations the_european_union human_rights yoga meditation karate sushi lasagna guacamole whisky espresso""")
SYLLABLES = words("""ba be bo bra da de dor el fa fen gal gor ha hel is jo ka kel kor la len lo ma mir mo na nor o pa pel quo ra ri ro
sa sel shi ta tel tor u va ver vin wa wen xa yo za zor ton berg stein ford ville mann ski ova ini ez ish ium tron plex gram""")
