import numpy as np

_Numbers = np.ndarray[tuple[int], np.dtype[np.intp]]

def linear_sum_assignment(
    cost_matrix: np.ndarray[tuple[int, int], np.dtype[np.float64]], maximize: bool = False
) -> tuple[_Numbers, _Numbers]: ...
