"""MiniLM on the intents of banking customers, with 1,000 labels and all other training texts unlabeled.

The teacher is MPNet, nearly five times as large and trained on the same 1,000 labels. It predicts every text.

hf-finetune train mteb/banking77 --label label_text --max-train-rows 1000 --max-length 64 \
    --model sentence-transformers/all-mpnet-base-v2 --output runs/banking-teacher
hf-finetune run banking_unlabelled
hf-finetune run banking_unlabelled --unlabeled train calls.csv    # also texts of your own
hf-finetune run banking_unlabelled --objective Supervised --unlabeled --epochs 27    # no teacher, as many steps
"""

from hf_finetune import Distill, Hub, Model, Recipe, SoftTargets, TextData, main, minilm


def recipe() -> Recipe:
    return Recipe(
        name="banking-unlabelled",
        # The training rows of the teacher: it has seen the same labels as its student.
        data=TextData(
            path="mteb/banking77",
            text="text",
            label="label_text",
            max_length=64,
            max_train_rows=1000,
            unlabeled=("train",),
            license="cc-by-4.0",
        ),
        model=Model(checkpoint=minilm()),
        objective=Distill(teacher="runs/banking-teacher", kinds=(SoftTargets(temperature=2.0),)),
        hub=Hub(language="en", license="apache-2.0"),
    )


if __name__ == "__main__":
    main(recipe)
