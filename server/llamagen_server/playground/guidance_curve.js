/** Plot of the guidance scale over the image tokens; the formula is that of vllm_llamagen/guidance.py. */

/** @type {Record<string, (t: number) => number>} share of the full scale at position t, between 0 and 1 */
const SCHEDULES = {
  constant: () => 1,
  linear: (t) => t,
  cosine: (t) => (1 - Math.cos(Math.PI * t)) / 2,
};

/**
 * Returns the outline of the area below the curve, as an SVG path in a box of 100 x 100.
 * @param {{ scale: number, interval: number, schedule: string }} guidance
 * @param {number} numTokens
 */
export function guidanceCurve({ scale, interval, schedule }, numTokens) {
  const last = numTokens - 1;
  const share = SCHEDULES[schedule] ?? (() => 1);
  const highest = Math.max(scale, 1);
  const height = (/** @type {number} */ token) => {
    const isGuided = interval < 0 || token <= interval + 1;
    return 100 - (100 * (isGuided ? 1 + (scale - 1) * share(token / last) : 1)) / highest;
  };
  const points = Array.from({ length: numTokens }, (_, token) => `${(100 * token) / last} ${height(token)}`);
  return `M-2 102L-2 ${height(0)}L${points.join("L")}H102V102Z`;
}
