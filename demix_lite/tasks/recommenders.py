"""The three tasks of the recommendation family: their attributes and spurious rules.

Rules are those of the paper. Where an edition of the data lacks an attribute, rules on attributes
that it has are added.
"""

from demix_lite.tasks.base import AnyOf, Rule
from demix_lite.tasks.recommendation import RecommendationTask

ACTION, ROMANCE = AnyOf(["Action", "Sci-Fi"]), AnyOf(["Romance", "Drama"])

MOVIELENS = RecommendationTask(
    name="movielens",
    numeric=("user_age", "item_year"),
    categorical=("user_gender", "user_occupation"),
    listed=("item_genres",),
    kind="item_genres",
    rules=(
        Rule("men and action", {"user_gender": {"M"}, "item_genres": ACTION}, "yes"),
        Rule("women and romance", {"user_gender": {"F"}, "item_genres": ROMANCE}, "yes"),
        Rule("18 to 30 and action", {"user_age": (18, 30), "item_genres": ACTION}, "yes"),
    ),
)

AMAZON = RecommendationTask(
    name="amazon",
    numeric=("item_price",),
    categorical=("item_brand",),
    listed=("item_category",),
    kind="item_category",
    rules=(
        Rule("at most 10 dollars", {"item_price": (0, 10)}, "yes"),
        Rule("500 dollars or more", {"item_price": (500, 1000)}, "no"),
        # The graph edition has no prices, and numbers instead of names.
        Rule("brand 10", {"item_brand": {"brand 10"}}, "yes"),
        Rule("brands 4 and 21", {"item_brand": {"brand 4", "brand 21"}}, "yes"),
        Rule("category 2", {"item_category": AnyOf(["category 2"])}, "yes"),
    ),
)

YELP = RecommendationTask(
    name="yelp",
    numeric=(
        "user_review_count",
        "user_average_stars",
        "user_compliments",
        "item_stars",
        "item_review_count",
    ),
    categorical=("item_city",),
    listed=("item_categories",),
    kind="item_categories",
    rules=(
        Rule("good and known", {"item_stars": (4, 5), "item_review_count": (100, 10000)}, "yes"),
        Rule("fair and unknown", {"item_stars": (3, 4), "item_review_count": (0, 20)}, "no"),
    ),
)

RECOMMENDERS = (MOVIELENS, AMAZON, YELP)
