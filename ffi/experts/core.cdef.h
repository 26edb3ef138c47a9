/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the policies for a cache of experts compute for each layer of each token, where NumPy's calls would cost more
 * than the arithmetic. Read twice: by cffi (ffi/build_experts.py) and by the C compiler. Shapes are [rows][columns];
 * E experts of one layer, L layers. Nothing here allocates but what says so, and no index comes from a float.
 */

/*
 * The logistic models of mpsafe/experts/policies/estimator.py, and all that they remember, in one piece of memory that
 * the caller owns, 64-byte aligned or not, and may copy.
 */
struct estimator;

/* How much memory; 0 where the sizes make no sense. `rate`: how many of all experts a layer asks for. */
size_t estimator_bytes(int layers, int experts, int reach);
void estimator_start(struct estimator *estimator, int layers, int experts, int reach, float rate);

/* [L][E]: how likely each expert is to be asked for when its layer comes next. */
float *estimator_likely(struct estimator *estimator);

/*
 * A layer asked for `flat`, layer * E + id each: learns from it, and says anew what its next turn will ask for.
 * probabilities [E] or NULL.
 */
void estimator_routed(struct estimator *estimator, int layer, const int64_t *flat, int count,
                      const float *probabilities);

/*
 * Says anew what the layers behind `now` (-1 before the first) will ask for, `reach` at most. ahead [depth][E]: what
 * their routers make of the present hidden state; maps [near][E]: what similar tokens asked for; regressed [reach][E].
 * Each may be NULL.
 */
void estimator_ahead(struct estimator *estimator, int now, const float *ahead, int depth, const float *maps,
                     const float *regressed);

/* Who of the layers behind `now` is likelier than `least`, most urgent first; returns how many, at most reach * E. */
int estimator_wishes(const struct estimator *estimator, int now, float least, int64_t *flat, double *likely);

/* The `count` of those that may leave [L * E] that are worth least, the least first; returns how many there are. */
int estimator_leaving(const struct estimator *estimator, int now, float rent, const uint8_t *may_leave, int count,
                      int64_t *flat);

/*
 * One row for a regression: logarithms of `probabilities` and of `ahead`, with `token` between them; row has experts +
 * token_count + ahead_count numbers. probabilities may be NULL: then it is `token` alone.
 */
void regression_row(const float *probabilities, int experts, const float *token, int token_count, const float *ahead,
                    int ahead_count, float least, float *row);

/* row [rows] times solution [rows][columns], between `least` and 1. */
void regression_predict(const float *row, int rows, const uint16_t *solution, int columns, float least, float *found);

/* To bfloat16, rounded to nearest. What is large is kept so: to read it is what takes the time. */
void to_bfloat16(const float *values, size_t count, uint16_t *found);

/* Dot products of `row` with rows of `matrix` [any][columns]: those at `places`, or the first `count`. */
void rows_dot(const uint16_t *matrix, const int64_t *places, int count, int columns, const float *row, float *found);

/* The same added to `sums`; scores are the sums over norms [any] times `length`. */
void rows_near(const uint16_t *matrix, const float *norms, const int64_t *places, int count, int columns,
               const float *row, float length, float *sums, float *scores);

/*
 * A mean of rows of `layers` matrices [capacity][columns] that lie one behind another: of the `neighbours` with the
 * highest scores, with weights exp(sharpness * score). found [layers][columns]; scratch has room for `neighbours`.
 */
void rows_blend(const uint16_t *matrices, int capacity, int layers, int columns, const int64_t *places,
                const float *scores, int count, int neighbours, float sharpness, int64_t *scratch, float *found);
