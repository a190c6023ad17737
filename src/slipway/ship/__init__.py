"""From a run to a name in the model store, in one resumable job.

Light to import: torch and transformers are loaded by the stages that need them.
"""

from slipway.ship.options import ShipOptions, target_names
from slipway.ship.plan import Product, ShipPlan
from slipway.ship.run import Shipped, plan_ship, ship

__all__ = ["Product", "ShipOptions", "ShipPlan", "Shipped", "plan_ship", "ship", "target_names"]
