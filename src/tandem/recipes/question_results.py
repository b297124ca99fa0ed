def write_results(config, rows):
    pass
