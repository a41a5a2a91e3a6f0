"""Graph passes that change precision: float16, bfloat16 and int8."""
