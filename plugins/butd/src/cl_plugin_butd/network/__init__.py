"""Networks: the counter-stream family, its continual form, pretrained nets and transformers."""
