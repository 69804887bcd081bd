"""synthesizers"""
