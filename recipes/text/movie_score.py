"""MiniLM on sentences of movie reviews with their mean rating: regression.

The network trains on standardized ratings, and the saved model answers in their unit. The data are a folder with train
and test files of the columns text and score.

hf-finetune run movie_score --data.path FOLDER
hf-finetune run movie_score --data.path FOLDER --objective.loss Huber
hf-finetune run movie_score --data.path FOLDER --teacher runs/big
"""

from hf_finetune import Hub, Model, Recipe, TextData, main, minilm


def recipe() -> Recipe:
    return Recipe(
        name="movie-score",
        data=TextData(path="movie_score", text="text", label="score", task="regression"),
        model=Model(checkpoint=minilm()),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
