"""The recipe of the embedded demo model: renders scenes, trains the models on them and checks what they draw."""
